"""Runs both sides and compares them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.compat.server import CompatServer

__all__ = ["PLAIN", "Verdict", "compare", "counts", "digests", "record", "run_both"]

ROOT = Path(__file__).parents[2]
#: What plain DSPy did: outputs, and requests by digest.
PLAIN = Path(__file__).with_name("plain.json")


@dataclass(frozen=True, slots=True)
class Verdict:
    """``kind`` is ``same``, ``refused`` (before anything was paid), ``both fail``, ``differs`` or ``fails``."""

    name: str
    kind: str
    outputs: bool
    requests: bool
    parameters: bool
    calls: tuple[int, int]
    journaled: bool
    note: str


def run_both(
    names: Iterable[str] = (), recorded: Path | None = None
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What plain DSPy and DSPex did, pattern by pattern. ``recorded`` keeps plain DSPy's part for the next time."""
    with CompatServer() as server:
        if recorded is not None and recorded.exists():
            plain = [side for side in json.loads(recorded.read_text()) if not names or side["name"] in names]
        else:
            plain = _side("plain", server.url, names)
            if recorded is not None:
                recorded.write_text(json.dumps(plain))
        hosted = _hosted(server.url, [side["name"] for side in plain])
    for side in plain:
        yield side, hosted.get(side["name"], {"name": side["name"], "error": "the process ended", "requests": [],
                                              "outputs": None, "refused": False, "journaled": 0})  # fmt: skip


def record(sides: Iterable[Mapping[str, Any]]) -> None:
    """Keep what plain DSPy did for the tests."""
    kept = {side["name"]: {"outputs": side["outputs"], "requests": digests(side["requests"])} for side in sides}
    lines = (f"{json.dumps(name)}: {json.dumps(side, sort_keys=True)}" for name, side in sorted(kept.items()))
    PLAIN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _hosted(url: str, names: list[str]) -> dict[str, dict[str, Any]]:
    """A pattern may end the process: the others are run by the next one."""
    done: dict[str, dict[str, Any]] = {}
    while names:
        sides = {side["name"]: side for side in _side("hosted", url, names)}
        if not sides and not done:
            raise RuntimeError("the hosted side does not start")
        done |= sides
        left = [name for name in names if name not in done]
        names = left[1:]  # the first of them ended it
    return done


def _side(which: str, url: str, names: Iterable[str]) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.compat.sides", which, url, *names]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def compare(plain: dict[str, Any], hosted: dict[str, Any]) -> Verdict:
    outputs = plain["outputs"] == hosted["outputs"]
    requests = _sorted(_contents(plain)) == _sorted(_contents(hosted))
    parameters = _sorted(_parameters(plain)) == _sorted(_parameters(hosted))
    calls = len(plain["requests"]), len(hosted["requests"])
    journaled = hosted["journaled"] in (None, calls[1])
    if hosted["refused"]:
        kind = "refused"
    elif plain["error"] and hosted["error"]:
        kind = "both fail"
    elif hosted["error"]:
        kind = "fails"
    else:
        kind = "same" if all((outputs, requests, parameters, journaled)) and not plain["error"] else "differs"
    note = hosted["error"] or plain["error"] or ""
    return Verdict(plain["name"], kind, outputs, requests, parameters, calls, journaled, note)


def _contents(side: dict[str, Any]) -> list[Any]:
    return [request["messages"] for request in side["requests"]]


def _parameters(side: dict[str, Any]) -> list[Any]:
    return [{key: value for key, value in request.items() if key != "messages"} for request in side["requests"]]


def _sorted(values: list[Any]) -> list[str]:
    return sorted(json.dumps(value, sort_keys=True) for value in values)


def digests(requests: Iterable[Mapping[str, Any]]) -> list[str]:
    """The requests by digest, in an order of their own."""
    texts = (json.dumps(request, sort_keys=True) for request in requests)
    return sorted(hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts)


def counts(verdicts: Iterable[Verdict]) -> Counter[str]:
    return Counter(verdict.kind for verdict in verdicts)
