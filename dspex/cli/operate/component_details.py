"""The details of each component of a health report, as one line of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["DETAILS"]

Details = Mapping[str, Any]


def _postgres(found: Details) -> str:
    standby = ", a standby" if found["standby"] else ""
    return f"{found['version']}, {found['connections']} of {found['max_connections']} connections{standby}"


def _workers(found: Details) -> str:
    words = [f"{found['count']} live, running {found['running']} of {found['concurrency']}"]
    words += [f"versions {', '.join(found['versions'])}"] if found["versions"] else []
    words += [f"{name} {', '.join(found[name])}" for name in ("stopping", "silent") if name in found]
    return "; ".join([*words, *(f"{name}: {why}" for name, why in found.get("troubled", {}).items())])


def _programs(found: Details) -> str:
    if not found["count"]:
        return "every worker can run the deployed versions" if found["deployed"] else "none is deployed"
    listed = "; ".join(
        f"{each['program']} {each['version']} cannot run in "
        f"{'any live worker' if each['workers'] == 'all' else ', '.join(each['workers'])} "
        f"({each['waiting']} executions wait): {each['why']}"
        for each in found["unrunnable"]
    )
    more = found["count"] - len(found["unrunnable"])
    return f"{listed}; and {more} more" if more else listed


def _beat(found: Details) -> str:
    if "last_check_age_seconds" not in found:
        return "no check is stored yet"
    return f"last check {found['last_check_age_seconds']:.0f} s ago, one is due every {found['interval_seconds']:g} s"


def _pump(found: Details) -> str:
    return f"{found['leader'] or 'no worker'} leads, {found['lag_seconds']:.1f} s behind"


def _queue(found: Details) -> str:
    if not found["due"]:
        return "the queue is empty"
    longest = ", ".join(
        f"{program} {each['due']} ({each['oldest_wait_seconds']:.0f} s{', paused' if each['paused'] else ''})"
        for program, each in found["programs"].items()
    )
    return f"{found['due']} wait, the oldest for {found['oldest_wait_seconds']:.0f} s: {longest}"


def _redis(found: Details) -> str:
    if "version" not in found:
        return "reachable"
    return f"{found['version']}, {found['messages']} messages, {found['memory_bytes'] / 2**20:.1f} MiB"


def _adapters(found: Details) -> str:
    broken = "; ".join(f"{name}: {why}" for name, why in found.get("unloadable", {}).items())
    return broken or ", ".join(found["adapters"])


def _model(found: Details) -> str:
    failures = ", ".join(f"{code} {count}" for code, count in found["failures"].items()) or "no failures"
    words = [f"connected in {found['connect_ms']:.0f} ms"] if "connect_ms" in found else []
    words += [f"{found['completed']} completed recently, {failures}"]
    words += [f"{found['call_average_ms']:.0f} ms per call"] if found["call_average_ms"] is not None else []
    return ", ".join(words)


#: By component; the first word of the name for models.
DETAILS: Mapping[str, Callable[[Details], str]] = {
    "postgres": _postgres,
    "workers": _workers,
    "programs": _programs,
    "beat": _beat,
    "pump": _pump,
    "queue": _queue,
    "redis": _redis,
    "signature_system": lambda found: f"compiled in {found['compilation_ms']:.1f} ms",
    "type_system": lambda found: f"{found['types']} types validated in {found['validation_ms']:.2f} ms",
    "adapter_registry": _adapters,
    "models": lambda found: f"{found['endpoints']} in use, seen by {found['seen_by']}",
    "model": _model,
}
