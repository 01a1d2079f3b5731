"""docs/reference/api.md: every name of ``dspex``, from its docstring."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import dspex
from docs.generate.docstrings import CODE, markdown, signature

__all__ = ["page"]

_HEAD = """\
# Python API

<!-- Made by `python -m docs.generate` from the docstrings: do not edit. -->

Every name is importable from `dspex`, and loads on first use: `import dspex` brings neither DSPy nor Celery. The errors
are on [a page of their own](errors.md), and so are the [settings](settings.md).
"""

_SECTIONS = {
    "Signatures": (
        "signature", "Signature", "Field", "SignatureModel", "InputField", "OutputField", "register_type",
    ),
    "Programs": ("Program", "Retry", "Limits", "Action"),
    "Clients": ("Client", "AsyncClient"),
    "Executions": ("Execution", "AsyncExecution", "Status", "Result", "Metrics", "StreamEvent"),
    "Audit trail": ("AuditTrail", "AuditEvent"),
    "Batches": ("Batch", "AsyncBatch", "Progress", "Rejected"),
    "Health": ("HealthReport", "Component", "Condition"),
    "Adapters": ("adapters", "AdapterInfo", "Capabilities"),
    "Settings": ("Settings",),
}  # fmt: skip
#: What other modules of DSPex call, and users need not know.
_INNER = {
    "Action": {"faults", "read"},
    "Program": {"content", "from_content", "manual_actions"},
    "Retry": {"faults"},
    "Limits": {"faults"},
    "Client": {
        "broker_url", "check_schema", "final_indexes", "final_rows", "follow", "intake", "outcome", "resolve", "row",
        "rows", "timed_out", "wait", "watch",
    },
    "AsyncClient": {"call", "check_schema"},
    "Execution": {"conclude", "record", "shown_action_results", "shown_error"},
    "AsyncExecution": {"record", "shown_action_results", "shown_error"},
    "Batch": {"extend", "index_at", "pending", "slots", "stored"},
    "AsyncBatch": {"extend", "index_at", "pending", "slots", "stored"},
    "Settings": {"model_post_init", "sections"},
}  # fmt: skip
#: Nobody makes one but DSPex.
_GIVEN = {"AsyncBatch", "AsyncExecution", "AuditTrail", "Batch", "Execution", "Result", "Settings", "Signature"}


def page() -> str:
    """The text of the page. Raises LookupError when a public name is on no page."""
    listed = [name for names in _SECTIONS.values() for name in names]
    for name in dspex.__all__:
        made = getattr(dspex, name)
        if name not in listed and not (isinstance(made, type) and made.__module__ == "dspex.errors"):
            raise LookupError(f"{name} is in no section of docs/generate/api.py")
    parts = [_HEAD]
    for title, names in _SECTIONS.items():
        parts += [f"## {title}\n", *(part for name in names for part in _name(name))]
    return "\n".join(parts)


def _name(name: str) -> Iterator[str]:
    made = getattr(dspex, name)
    yield f"### {name}\n"
    if isinstance(made, type):
        yield from _class(name, made)
    else:
        yield f"```{CODE}\n{signature(made, f'dspex.{name}')}\n```\n\n{markdown(made)}\n"


def _class(name: str, made: type) -> Iterator[str]:
    if name not in _GIVEN and not issubclass(made, enum.Enum) and "__init__" in vars(made):
        yield f"```{CODE}\n{signature(made.__init__, f'dspex.{name}')}\n```\n"
    yield f"{markdown(made)}\n"
    if issubclass(made, enum.Enum):
        yield f"Values: {', '.join(f'`{value.value}`' for value in made)}.\n"
        return
    members = list(_members(name, made))
    rows = [_row(member, value) for member, value in members if not callable(value)]
    if rows:
        yield "\n".join(["| attribute | type | |", "|---|---|---|", *rows, ""])
    methods = [(member, value) for member, value in members if callable(value)]
    if name == "AsyncClient":
        awaited = [member for member, value in methods if markdown(value) == markdown(getattr(dspex.Client, member))]
        yield f"As in `Client`, awaited: {', '.join(f'`{member}`' for member in sorted(awaited))}.\n"
        methods = [(member, value) for member, value in methods if member not in awaited]
    for member, value in methods:
        yield f"#### {name}.{member}\n\n```{CODE}\n{signature(value, member)}\n```\n\n{markdown(value)}\n"


def _row(member: str, value: Any) -> str:
    read: Any = value.fget if isinstance(value, property) else value.func
    returned = str(inspect.signature(read).return_annotation)
    told = " ".join(markdown(value).split())
    return "| " + " | ".join(text.replace("|", "\\|") for text in (f"`{member}`", f"`{returned}`", told)) + " |"


def _members(name: str, made: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that DSPex documents, those of its base classes too, in the order of the source."""
    seen: set[str] = set()
    for owner in made.__mro__:
        if not owner.__module__.startswith("dspex."):
            continue
        for member, value in vars(owner).items():
            if member.startswith("_") or member in seen or member in _INNER.get(name, ()):
                continue
            seen.add(member)
            plain = getattr(value, "__func__", value)  # of a class method
            if isinstance(plain, property | cached_property) or (inspect.isfunction(plain) and inspect.getdoc(plain)):
                yield member, plain
