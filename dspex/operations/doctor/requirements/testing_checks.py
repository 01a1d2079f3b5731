"""The testing infrastructure: the deterministic double, and the suite that adapters are held to."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec

from dspex.operations.doctor.check import Finding, Need, check, met, not_met, skipped
from dspex.operations.doctor.deployment import Deployment
from dspex.operations.doctor.probe_programs import ANSWERING, PATIENCE_SECONDS
from dspex.program.adapters import adapters

#: The suite takes about 4 s of CPU.
SUITE_SECONDS = 90.0


@check(
    "The double is deterministic",
    Need.WORKER,
    mend="restart the workers: one may be of another version",
    seconds=PATIENCE_SECONDS + 5,
)
def double(deployment: Deployment) -> Finding:
    """Two executions of the scripted adapter with the same inputs have the same outputs, whichever worker ran them."""
    deployment.client.deploy(ANSWERING)
    first, second = (
        deployment.client.submit(ANSWERING, {"question": "the same?"}, priority=0, metadata={"by": "dspex doctor"})
        for _ in range(2)
    )
    same = dict(first.result(PATIENCE_SECONDS)) == dict(second.result(PATIENCE_SECONDS))
    return met("the same inputs, the same outputs") if same else not_met(f"{first.id} and {second.id} differ")


@check("The conformance suite passes", mend="run it: python -m workers.conformance", seconds=SUITE_SECONDS + 5)
def conformance(_deployment: Deployment) -> Finding:
    """The suite for adapters of third parties is run on the scripted adapter, in a process of its own."""
    if adapters()["scripted"].missing or find_spec("celery") is None:
        return skipped("dspex[worker] is not installed on this machine")
    if find_spec("pytest") is None:
        return skipped("pytest is not installed on this machine")
    done = subprocess.run(
        [sys.executable, "-m", "workers.conformance"],
        capture_output=True,
        text=True,
        timeout=SUITE_SECONDS,
        check=False,
    )
    passed = re.search(r"(\d+) passed", done.stdout)
    if done.returncode != 0 or passed is None:
        return not_met(f"it ended with {done.returncode}: {_last_line(done.stdout + done.stderr)}")
    return met(f"{passed[1]} checks of the scripted adapter passed", passed=float(passed[1]))


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1][:200]
