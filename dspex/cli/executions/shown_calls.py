"""The model calls of an execution, as ``dspex show --calls`` prints them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from dspex.client.model_call import ModelCall
from dspex.operations.report.dollars import dollars

__all__ = ["print_calls"]


def print_calls(screen: Console, calls: Sequence[ModelCall], counted: int) -> None:
    """Print each call with its whole answer; ``counted`` is how many the execution's metrics have."""
    screen.print()
    for number, call in enumerate(calls, 1):
        screen.print(_head(number, call))
        if call.prompt is not None:
            screen.print(Padding(Text(call.prompt, style="dim"), (0, 0, 0, 2)))
        screen.print(
            Padding(Text(call.answer or "(an empty answer)", style="" if call.answer else "dim"), (0, 0, 1, 2))
        )
    if not calls:
        screen.print(Text("no model call is stored", style="dim"))
    elif counted > len(calls):
        screen.print(Text(f"{counted - len(calls)} more calls are not stored", style="dim"))


def _head(number: int, call: ModelCall) -> Text:
    text = Text.assemble((f"call {number}", "bold"), "  ", (call.model, "cyan"), f"  {', '.join(_facts(call))}")
    for note, style in _notes(call):
        text.append(f"  {note}", style=style)
    return text


def _facts(call: ModelCall) -> Iterator[str]:
    yield f"attempt {call.attempt}"
    yield f"{call.prompt_tokens:,}+{call.completion_tokens:,} tokens"
    yield f"cost {dollars(call.cost_usd)}"
    yield f"{call.duration_ms:,.0f} ms"
    if call.request_id:
        yield f"request {call.request_id}"


def _notes(call: ModelCall) -> Iterator[tuple[str, str]]:
    if call.replayed:
        yield f"replayed in attempt {', '.join(map(str, call.replayed))}", "yellow"
    if call.rejected:
        yield "rejected: it is never replayed", "red"
