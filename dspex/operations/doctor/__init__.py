"""The doctor: is this deployment ready, and what is left to mend?

:func:`examine` makes every check of every group and gives a :class:`Report`. A group is a module of
``requirements`` (the twelve that DSPex was specified with) or of ``operations``; a check is a function there, marked
with :func:`dspex.operations.doctor.check.check`. To add one, write the function: its docstring says what it means.

No check does harm to a system in production: what is asked of Postgres is asked read-only, and what is executed are
programs named ``dspex-doctor…`` whose model is pretended, so they cost nothing.
"""

from dspex.operations.doctor.check import Check, Finding, Verdict
from dspex.operations.doctor.doctor_report import Checked, GroupReport, Report
from dspex.operations.doctor.examination import examine
from dspex.operations.doctor.groups import GROUPS, Group

__all__ = ["GROUPS", "Check", "Checked", "Finding", "Group", "GroupReport", "Report", "Verdict", "examine"]
