"""What commands share: executions as data, JSON, and values on one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import click

from dspex.cli.output.console_tables import print_table
from dspex.client.execution import Execution
from dspex.settings import Settings
from dspex.store import migrate
from dspex.store.database import Database
from dspex.store.lifecycle.status import Status

__all__ = ["STATUS_STYLES", "as_data", "echo_json", "json_option", "opened_database", "print_table", "short"]

STATUS_STYLES = {
    Status.QUEUED: "yellow",
    Status.RUNNING: "cyan",
    Status.COMPLETED: "green",
    Status.FAILED: "red",
    Status.CANCELLED: "magenta",
}

json_option: Callable[[Any], Any] = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@contextmanager
def opened_database(settings: Settings | None = None) -> Iterator[Database]:
    """The database of the settings; its schema is looked at. Raises BackendUnavailable, SchemaOutdated."""
    backends = (settings or Settings.load()).backends()
    database = Database(backends.database_url, application_name="dspex command")
    try:
        database.run(migrate.check)
        yield database
    finally:
        database.close()


def echo_json(data: Any) -> None:
    """Print data as JSON: moments as ISO 8601, ids as text."""
    click.echo(json.dumps(data, ensure_ascii=False, indent=2, default=_plain))


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def as_data(execution: Execution) -> dict[str, Any]:
    """An execution as ``--json`` prints it; without its inputs and result."""
    error = execution.shown_error
    return {
        "id": str(execution.id),
        "program": execution.program,
        "version": execution.version,
        "status": str(execution.status),
        "attempts": execution.attempts,
        "priority": execution.priority,
        "created_at": _iso(execution.created_at),
        "started_at": _iso(execution.started_at),
        "finished_at": _iso(execution.finished_at),
        "adapter_used": execution.adapter_used,
        "error": None if error is None else error.as_dict(),
        "metrics": {name: getattr(execution.metrics, name) for name in execution.metrics.__slots__},
        "metadata": execution.metadata,
        "action_results": execution.shown_action_results,
        "trace_id": execution.trace_id,
    }


def short(value: Any, most: int = 200) -> str:
    """A value on one line of at most ``most`` characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
