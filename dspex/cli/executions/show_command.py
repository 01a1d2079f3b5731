"""``dspex show``: an execution and its timeline."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import click
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dspex.cli.executions.shown_calls import print_calls
from dspex.cli.output.console_tables import console
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.one_line import one_line
from dspex.cli.output.status_styles import STATUS_STYLES
from dspex.client.audit_trail import AuditEvent, AuditTrail
from dspex.client.client import Client
from dspex.client.execution import Execution, Waiting
from dspex.client.shown.execution_data import execution_data, shown_values
from dspex.operations.report.dollars import dollars
from dspex.sealing.values import Sealing
from dspex.store.lifecycle.status import Status

__all__ = ["show", "timeline"]

ID = re.compile(r"[0-9a-f-]{17,}")
#: The keys of an event's data that the timeline shows, most useful first.
SHOWN_KEYS = (
    *("worker", "host", "pid", "requested_at", "by"),
    *("adapter", "module", "model", "replayed", "prompt_tokens", "completion_tokens", "cost_usd", "bytes"),
    *("valid", "repairs", "fields", "code", "cause", "error", "reason", "delay_seconds", "last_heartbeat_at"),
    *("program", "version", "fingerprint", "trace_id"),
)


FAILURES = frozenset({"failed", "lease_expired", "deadline_exceeded"})
STYLES = {
    "completed": "green", "retried": "yellow", "recovered": "yellow",
    "cancelled": "magenta", "cancel_requested": "magenta",
}  # fmt: skip


@click.command()
@click.argument("id")
@click.option("--calls", is_flag=True, help="Its model calls, too: model, answer, tokens, cost, duration, replays.")
@json_option
def show(id: str, calls: bool, as_json: bool) -> None:
    """Show an execution: inputs, outputs, metrics, and the timeline of its audit trail.

    Values that are encrypted are never shown. Answers of models are encrypted as a whole if a field of the program is.

    \b
    Examples:
      dspex show 0193e0f2-5d0a-7c31-a1f4-3b0f4a1c2d3e
      dspex show 0193e0f2-5d0a-7c31-a1f4-3b0f4a1c2d3e --calls
    """
    with Client() as client:
        execution = client.get(id)
        trail = execution.audit_trail
        signature = client.program(execution.program, execution.version).signature
        session = client._session
        inputs, result = shown_values(session, session.row(execution.id))
        made = session.model_calls(execution.id, sealing=Sealing()) if calls else []
        if as_json:
            data = {
                **execution_data(execution),
                "inputs": inputs,
                "result": result,
                "extra": execution.shown_extra,
                "audit": _audit(trail),
            }
            echo_json(data | ({"calls": [asdict(call) for call in made]} if calls else {}))
            return
        screen = console()
        screen.print(_head(execution))
        if (due := execution._later) is not None:
            screen.print(Text(f"begins at {due:%F %T} UTC", style="yellow"))
        if execution.status is Status.QUEUED and (why := client.paused().get(execution.program)):
            screen.print(Text(f"the program is paused ({why}): `dspex resume {execution.program}`", style="yellow"))
        if execution.waiting is not None:
            screen.print(Text(_waiting(execution.waiting), style="blue"))
        screen.print(_values("inputs", inputs))
        if result is not None:
            screen.print(_values("outputs", result))
        if extra := execution.shown_extra:
            screen.print(_values("extra", extra))
        if (error := execution.shown_error) is not None:
            spent = f" ({error.code})" if execution.cause_code != error.code else ""
            screen.print(Text.assemble(("error   ", "bold"), (f"{execution.cause_code}{spent}", "red"), f"  {error}"))
        if execution.trace_id is not None:
            screen.print(Text(f"trace   {execution.trace_id}", style="dim"))
        screen.print(Text(f"signature {signature.name}  {signature.fingerprint[:16]}", style="dim"))
        screen.print(timeline(trail, width=screen.width))
        if calls:
            print_calls(screen, made, execution.metrics.lm_calls)


def _waiting(waiting: Waiting) -> str:
    """What it waits for, and the command that shows more."""
    command = {"approval": "`dspex approvals`", "batch": "`dspex bundles`"}.get(waiting.reason)
    return f"waits for its {waiting.reason} since {waiting.since:%F %T}" + (f": see {command}" if command else "")


def timeline(trail: AuditTrail, *, width: int = 100) -> Panel:
    """The audit trail as a panel of this width: when each event began, how long it took, and a bar for it."""
    begin = trail[0].at
    end = max(_end(event) for event in trail)
    span = max((end - begin).total_seconds(), 1e-6)
    cells = 28 if width >= 120 else 14 if width >= 100 else 8
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("at", "event", "took", ""):
        table.add_column(name, justify="left" if name in ("event", "") else "right", no_wrap=True)
    table.add_column("", overflow="fold")
    for event in trail:
        offset = (event.at - begin).total_seconds()
        took = event.duration_ms
        table.add_row(
            f"+{_milliseconds(offset * 1000)}",
            Text(event.kind, style=_style(event)),
            "" if took is None else _milliseconds(took),
            _bar(offset / span, (took or 0) / 1000 / span, cells),
            Text(_details(event), style="dim"),
        )
    verdict = trail.verify()
    whole = Text("✔ the hash chain is intact", style="green")
    proof = whole if verdict else Text("✘ " + "; ".join(verdict.faults), style="bold red")
    title = f"audit trail of {trail.execution_id}"
    return Panel(Group(table, Text(), proof), title=title, title_align="left", border_style="dim")


def _head(execution: Execution) -> Text:
    status = execution.status
    return Text.assemble(
        (f"{status}", f"bold {STATUS_STYLES[status]}"), "  ", (execution.program, "bold"), f"@{execution.version}  ",
        _figures(execution),
    )  # fmt: skip


def _figures(execution: Execution) -> str:
    """The last attempt in figures, which are known once it has ended."""
    if not execution.attempts:
        return "no attempt was begun"
    if not execution._has_figures:
        return f"attempt {execution.attempts}, begun at {execution.started_at:%F %T} UTC"
    m = execution.metrics
    cost = f", cost {dollars(m.cost_usd, m.unpriced_lm_calls)}" if m.lm_calls else ""
    return (
        f"attempt {execution.attempts}, {m.execution_time_ms:,.0f} ms after {m.queue_time_ms:,.0f} ms in the queue; "
        f"{m.lm_calls} model calls, {m.prompt_tokens}+{m.completion_tokens} tokens{cost}"
    )


def _values(title: str, values: Mapping[str, Any]) -> Text:
    text = Text()
    for index, (name, value) in enumerate(values.items()):
        text.append(f"{title if index == 0 else '':8}", style="bold").append(f"{name}: ", style="cyan")
        text.append(one_line(value, 300) + ("\n" if index < len(values) - 1 else ""))
    return text


def _milliseconds(value: float) -> str:
    return f"{value / 1000:,.2f} s" if value >= 10_000 else f"{value:,.1f} ms"


def _bar(begin: float, length: float, cells: int) -> Text:
    first = min(int(begin * cells), cells - 1)
    filled = min(max(1, round(length * cells)), cells - first)
    return Text(" " * first + ("█" * filled if length else "·"), style="cyan")


def _style(event: AuditEvent) -> str:
    if event.kind in FAILURES or event.data.get("error") or event.data.get("valid") is False:
        return "red"
    return STYLES.get(event.kind, "")


def _details(event: AuditEvent) -> str:
    parts = [f"{key}={_brief(key, event.data[key])}" for key in SHOWN_KEYS if event.data.get(key) not in (None, [], "")]
    return " ".join(parts[:4])


def _brief(key: str, value: Any) -> str:
    """Ids and hashes are shortened to their first characters. A trace id is not: it is needed to look the trace up."""
    if key == "trace_id":
        return str(value)
    return f"{value[:13]}…" if isinstance(value, str) and ID.fullmatch(value) else one_line(value, 40)


def _end(event: AuditEvent) -> datetime:
    return event.at + timedelta(milliseconds=event.duration_ms or 0)


def _audit(trail: AuditTrail) -> dict[str, Any]:
    verdict = trail.verify()
    events = [{"kind": e.kind, "at": e.at.isoformat(), "attempt": e.attempt, "data": dict(e.data)} for e in trail]
    return {"whole": bool(verdict), "faults": list(verdict.faults), "events": events}
