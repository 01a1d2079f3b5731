"""docs/reference/errors.md: the tree of errors, from the classes, and every code that the source gives."""

from __future__ import annotations

import inspect
import re
import textwrap

from docs.generate.docstrings import markdown
from docs.generate.sources import sources
from dspex import errors

__all__ = ["page"]

_HEAD = """\
# Errors

<!-- Made by `python -m docs.generate` from dspex/errors.py and the codes in the source: do not edit. -->

Every error has `code` (stable: decide on it, never on the text), `retryable` (whether the same call may succeed later)
and `details` (JSON-friendly evidence). All can be pickled. None holds a secret.

```text
{tree}
```

What an execution failed with is stored with it. `execution.result()` raises `ExecutionFailed`, whose `code` is that of
the failure and whose `cause` is the failure; `execution.error` is it, too. What to do about the frequent ones is in
[troubleshoot](../how-to/troubleshoot.md).
"""
_TREE = re.compile(r"::\n\n(.*?)\n\n\S", re.DOTALL)

#: Every code, and what it means, by what it is the code of.
_CODES = {
    "Of a failed execution": {
        "attempts_exhausted": "every attempt failed; `cause` is what the last one failed with",
        "poisoned": "every attempt ended with the death of its worker",
        "deadline_exceeded": "the attempt took longer than its `timeout`",
        "output_invalid": "the outputs do not fit the signature, after a repair where one can be asked for",
        "program_error": "code of the program raised",
        "not_a_prediction": "the module returned what is no prediction",
        "not_a_module": "the factory returned what is no `dspy.Module`",
        "code_not_found": "what `package.module:name` names is not there",
        "module_not_allowed": "the code is outside the packages that the worker allows (`DSPEX_PROGRAM_PACKAGES`)",
        "state_mismatch": "the state does not fit the module",
        "not_storable": "the outcome holds what Postgres cannot store",
        "adapter_unavailable": "the adapter cannot be loaded by that worker",
        "interpreter_missing": "`program_of_thought` has no Deno on that worker",
        "interpreter_failed": "the sandbox of `program_of_thought` did not start or broke",
        "action_failed": "a manual action says that the attempt does not count as done",
        "action_error": "a manual action raised, or told what is no JSON",
        "rule_violated": "a rule between fields does not hold",
        "resource_exceeded": "the attempt took more than `resource_management` allows",
        "failed": "the default of `ExecutionFailed`",
        "cancelled": "it was cancelled",
    },
    "Of a model call": {
        "provider_unavailable": "the server is away, failed, or its reply broke off",
        "rate_limited": "the provider limits the rate (`ModelError`), or this client submits too often (`RateLimited`)",
        "model_timeout": "the provider did not answer in time",
        "output_unparseable": "the answer cannot be read",
        "authentication": "the key is missing or refused",
        "billing": "the provider reports a problem of billing or quota",
        "invalid_request": "the provider refuses the request, or the model's name leads nowhere",
        "unsupported": "the model or the provider does not have what the program asks for",
        "context_window_exceeded": "the prompt is too long for the model",
        "content_filtered": "the provider withheld the answer",
        "price_unknown": "the program has a budget and the model has no known price",
        "model_error": "any other failure of the provider",
    },
    "Of an attempt that is made later": {
        "rate_limited_locally": "a limit of the program or the model is reached",
        "budget_reserved": "calls under way have reserved the rest of the budget",
        "budget_exceeded": "the budget is spent, and the program is paused",
        "limits_unknown": "Redis, which counts model calls, is out of reach",
    },
    "Of signatures and values": {
        "syntax_error": "the text of a signature cannot be read",
        "unknown_type": "a type that does not exist",
        "unknown_constraint": "a constraint that does not exist, or that the type does not have",
        "unknown_field": "`constraints=` names a field that is not there",
        "invalid_type": "a type that cannot be put together so",
        "invalid_constraint": "a constraint whose value does not fit, or that nothing can meet",
        "validation_error": "values do not fit; each fault is in `.errors`",
        "constraint_violation": "the same, where every fault is a broken constraint",
    },
    "Of programs, submits and executions": {
        "secret_in_program": "a program carries a secret",
        "program_not_found": "no such program, or version, is deployed",
        "program_version_mismatch": "the program in hand is not the deployed version",
        "idempotency_conflict": "the key was used before with other inputs",
        "execution_not_found": "no such execution",
        "transition_refused": "the execution's status does not allow it",
        "timed_out": "the wait is over; the execution goes on",
        "result_not_ready": "it is not final yet, and nobody wanted to wait",
        "client_closed": "the client was closed while it waited",
        "batch_refused": "`dspex batch` cannot go on with these files",
        "no_worker": "no worker is alive (`dspex bench`)",
    },
    "Of secrets": {
        "encryption_error": "the default of `EncryptionError`",
        "encryption_key_missing": "`DSPEX_ENCRYPTION_KEY` is not set",
        "encryption_key_unknown": "it was sealed with a key that is not among those set",
        "encryption_unavailable": "the package `cryptography` is not installed",
        "sealed_data_damaged": "what was sealed was changed or moved",
    },
    "Of operation": {
        "backend_unavailable": "Postgres or Redis is out of reach",
        "schema_outdated": "the schema is not this version's",
        "configuration_error": "settings are wrong; each fault is in `.errors`",
        "lease_lost": "the worker no longer owns the attempt, and discards it",
        "message_refused": "a message on the queue is not one of ours",
        "alert_not_delivered": "a channel could not tell an alert; it is tried again",
        "stack_running": "an embedded stack runs in that home already",
        "process_failed": "a process of the embedded stack did not come up",
        "backup_failed": "no backup was made",
        "backup_damaged": "the backup is not whole, or has no manifest",
        "restore_refused": "the restore was not begun",
        "restore_failed": "what was restored is not what the manifest says, and was taken back",
        "audit_not_whole": "a trail does not verify, and is not exported",
        "export_failed": "the export cannot be written",
        "export_unreadable": "the file is no whole export",
        "error": "the default of `DspexError`",
    },
}
#: Of errors that nobody outside DSPex meets.
_INNER = {"deferred", "failpoint"}
_GIVEN = (
    re.compile(r"\bcode ?= ?\"(\w+)\""),
    re.compile(r"\bcode: str = \"(\w+)\""),
    re.compile(r"Rule\(\"(\w+)\", (?:True|False)"),
    re.compile(r"'code', '(\w+)'"),
    re.compile(r"^    \"(\w+)\": \"[^\"]*attempt is (?:made later|handed)", re.MULTILINE),
    re.compile(r"^    \"(budget_exceeded)\": ", re.MULTILINE),
)


def page() -> str:
    """The text of the page. Raises LookupError when the source and the page do not know the same codes."""
    known = {code for codes in _CODES.values() for code in codes}
    given = {code for text in sources() for pattern in _GIVEN for code in pattern.findall(text)} - _INNER
    if given != known:
        raise LookupError(f"docs/generate/errors.py and the source differ in {sorted(given ^ known)}")
    found = _TREE.search(inspect.getdoc(errors) or "")
    assert found is not None
    parts = [_HEAD.format(tree=textwrap.dedent(found[1])), "## Codes\n"]
    for title, codes in _CODES.items():
        rows = "".join(f"| `{code}` | {meaning} |\n" for code, meaning in codes.items())
        parts.append(f"### {title}\n\n| code | it means |\n|---|---|\n{rows}")
    return "\n".join([*parts, "## Classes\n", *map(_class, errors.__all__)])


def _class(name: str) -> str:
    made = getattr(errors, name)
    if not issubclass(made, Exception):
        return f"### {name}\n\n{markdown(made)}\n"
    facts = f"*code `{made.code}`; {'retryable' if made.retryable else 'not retryable'} unless it says otherwise*"
    return f"### {name}\n\n{markdown(made)}\n\n{facts}\n"
