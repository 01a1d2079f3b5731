"""docs/reference/doctor.md: every check of ``dspex doctor``, from the checks themselves."""

from __future__ import annotations

from dspex.operations.doctor import GROUPS, Check, Group

__all__ = ["page"]

_HEAD = """\
# dspex doctor

<!-- Made by `python -m docs.generate` from dspex/operations/doctor/: do not edit. -->

`dspex doctor` says whether a deployment is ready: the twelve requirements that DSPex was specified with, and what
operating it takes. Each check is made for real, is over in time (10 seconds unless it says otherwise), and works with
whatever is there: with Postgres or Redis away it reports the rest. What is asked of Postgres is asked in read-only
transactions. What is executed are programs named `dspex-doctor…`, whose model is pretended: they cost nothing, go ahead
of other work, and carry `{"by": "dspex doctor"}` as metadata. The group `performance` puts 50 users on the deployment
for about two seconds; `--only` with other groups leaves it out.

How to use it before going live: [prepare for production](../how-to/prepare-for-production.md).

## Verdicts, score and exit code

| verdict | |
|---|---|
| `met` | it was looked at, and is as it should be |
| `warning` | it works, but somebody should know |
| `not_met` | it is not as it must be |
| `unknown` | it could not be found out: what it needs is not there, or it was not over in time |
| `skipped` | it does not apply here |

A group is what the worst of its checks is; a requirement with a warning is met. The score is out of 100: each check
that applies counts the same, a warning half; it is 100 only when nothing is left to mend. The exit code is 0 when
nothing is unmet or unknown, 1 when something is, 3 when Postgres or Redis is unreachable.

## `--json`

```text
{"at", "version", "env", "ready", "unreachable", "requirements_met", "requirements", "score", "seconds",
 "counts": {verdict: number},
 "groups": [{"name", "title", "requirement": true | false, "verdict",
             "checks": [{"name", "title", "verdict", "evidence", "mend": text | null, "ms",
                         "figures": {name: number}}]}]}
```
"""


def page() -> str:
    """The text of the page."""
    requirements = [group for group in GROUPS if group.requirement]
    operations = [group for group in GROUPS if not group.requirement]
    parts = [_HEAD, "## The twelve requirements\n", *map(_group, requirements)]
    return "\n".join([*parts, "## Operation\n", *map(_group, operations)])


def _group(group: Group) -> str:
    return "\n".join([f"### {group.title} (`{group.name}`)\n", *map(_check, group.checks)])


def _check(check: Check) -> str:
    return f"#### `{check.name}`: {check.title}\n\n{check.meaning}\n\n*To mend:* {check.mend}.\n"
