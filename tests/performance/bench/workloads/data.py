"""`dspex batch` on a large file, beside pyarrow that only reads it; and the command itself, whole and killed thrice.

``make bench ONLY=data GIB=5`` has files of that size. The parts are measured on rows of a kilobyte. The command runs on
wide rows, of which few make a large file: with narrow ones the executions would take most of the time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dspex
from dspex.client.client import Client
from dspex.data.text_input import digest
from tests.performance.bench.context import ROOT, Context
from tests.performance.bench.figures import Figure, alternate, at_least, at_most, ratio
from tests.performance.bench_batch_files import RESULT, SIGNATURE, generate, most_mib
from tests.processes import dspex_command, environment_of

FORMATS = ("csv", "parquet")
#: Bytes of a wide row: a letter that is carried through.
WIDE_BYTES = 256 * 1024
MOST_MIB = 200
#: Where the command is killed; ``{half}`` is the half of its rows.
KILLS = ("between_chunks=kill@1", "after_batch_line=kill@{half}", "during_table=kill@2")


def run(context: Context) -> list[Figure]:
    size = int(context.gib * 2**30)
    return [figure for format in FORMATS for figure in (*parts(context, format, size), *command(context, format, size))]


def parts(context: Context, format: str, size: int) -> Iterator[Figure]:
    """Rows/s of reading and of writing, beside pyarrow, and the most memory of either."""
    path = context.directory / f"narrow.{format}"
    rows = generate(path, size)
    most = 0.0

    def rate(part: str) -> float:
        nonlocal most
        environment = _module()
        if part != "alone":
            environment["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # as the command has it
        found = context.ask([sys.executable, "-m", "tests.performance.bench_batch_files", part, str(path)], environment)
        most = most if part == "alone" else max(most, found["mib"])
        return float(found["rows"] / found["seconds"])

    names = ("alone", "inputs", "table")
    found = alternate({name: lambda name=name: rate(name) for name in names}, context.repeats, context.told)  # type: ignore[misc]
    name = f"{format} of {size / 2**30:.2g} GiB, {rows:,} rows"
    yield Figure(f"{name}: read by pyarrow alone", "pyarrow", "rows/s", found["alone"])
    yield Figure(f"{name}: read", "DSPex", "rows/s", found["inputs"])
    yield Figure(f"{name}: outputs written beside", "DSPex", "rows/s", found["table"])
    yield ratio(f"{name}: read, by pyarrow's rate", found["inputs"], found["alone"], at_least(0.25))
    yield Figure(f"{name}: most memory", "DSPex", "MiB", [most], at_most(MOST_MIB))
    path.unlink()


@dataclass(frozen=True, slots=True)
class Runs:
    """How the runs of one command went until it was done."""

    seconds: float
    mib: float
    sha256: str


def command(context: Context, format: str, size: int) -> Iterator[Figure]:
    """The whole command, with a worker: not disturbed, and killed three times."""
    source = context.directory / f"wide.{format}"
    rows = generate(source, size, carried=WIDE_BYTES)
    program = dspex.Program("triage", SIGNATURE, adapter="scripted", module_options={"outputs": RESULT})
    found = {}
    for name, kills in (("whole", ()), ("killed thrice", KILLS)):
        with context.deployment() as client, context.worker(client):
            client.deploy(program)
            found[name] = _until_done(client, source, [kill.format(half=rows // 2) for kill in kills])
        context.told(f"{format}, {name}: {found[name].seconds:.1f} s, {found[name].mib:.0f} MiB")
    if len({runs.sha256 for runs in found.values()}) != 1:
        raise AssertionError(f"the output of the runs differs: {found}")
    source.unlink()
    for name, runs in found.items():
        what = f"dspex batch, {format} of {size / 2**30:.2g} GiB, {rows:,} rows, {name}"
        yield Figure(what, "DSPex", "rows/s", [rows / runs.seconds], note="the same output" if name != "whole" else "")
        yield Figure(f"{what}: most memory", "DSPex", "MiB", [runs.mib], at_most(MOST_MIB))


def _until_done(client: Client, source: Path, kills: list[str]) -> Runs:
    output = source.with_name(f"out{source.suffix}")
    seconds, most = 0.0, 0.0
    for failpoints in (*kills, ""):
        environment = environment_of(client.settings.backends(), {"DSPEX_FAILPOINTS": failpoints})
        began = time.perf_counter()
        code, mib = _ended(dspex_command("batch", "triage", str(source), "-o", str(output)), environment)
        seconds, most = seconds + time.perf_counter() - began, max(most, mib)
        if code != (-signal.SIGKILL if failpoints else 0):
            raise AssertionError(f"dspex batch ended with {code} at {failpoints!r}")
    found = Runs(seconds, most, digest(output))
    for each in source.parent.glob("out*"):
        each.unlink()
    return found


def _ended(command: list[str], environment: dict[str, str]) -> tuple[int, float]:
    """The exit code of a command, and the most memory of its process."""
    most = 0.0
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, most_mib(process.pid))
            time.sleep(0.02)
    return process.returncode, most


def _module() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
