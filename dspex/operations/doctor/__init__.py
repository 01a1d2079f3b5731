"""The doctor: whether this deployment is ready, and what to fix.

:func:`examine` runs every check of every group and returns a :class:`Report`. A group is a module of ``requirements``
(what DSPex was specified with) or of ``operations`` (what running it takes); a check is a function there, decorated
with :func:`dspex.operations.doctor.check.check`. To add a check, write the function: its docstring is its meaning.

No check harms a system in production: Postgres is only read, and the programs that are executed are named
``dspex-doctor…`` and call no model, so they cost nothing.
"""

from dspex.operations.doctor.check import Check, CheckVerdict, Finding
from dspex.operations.doctor.doctor_report import CheckOutcome, GroupReport, Report
from dspex.operations.doctor.examination import examine
from dspex.operations.doctor.groups import GROUPS, CheckGroup

__all__ = [
    "GROUPS",
    "Check",
    "CheckGroup",
    "CheckOutcome",
    "CheckVerdict",
    "Finding",
    "GroupReport",
    "Report",
    "examine",
]
