"""The programs that the doctor deploys and executes: they call no model, so they cost nothing.

Their executions are kept until retention drops them, as all are; ``metadata`` marks them.
"""

from __future__ import annotations

from uuid import uuid4

from dspex.client.execution import Execution
from dspex.operations.doctor.deployment import Deployment
from dspex.program.actions import Action
from dspex.program.limits import Limits
from dspex.program.program import Program, Retry
from dspex.signatures import signature

__all__ = ["ACTING", "ANSWERING", "RESULT_SECONDS", "RETRYING", "SLOW", "submit"]

ASKED = signature('signature dspex_doctor "A question of dspex doctor": :string question -> :string answer')
#: How long the doctor waits for one result, in seconds.
RESULT_SECONDS = 20.0

ANSWERING = Program("dspex-doctor", ASKED, adapter="scripted", timeout=30)
RETRYING = Program(
    "dspex-doctor-retrying", ASKED, adapter="scripted", timeout=30, retry=Retry(3, backoff=0),
    module_options={"fail": {"code": "provider_unavailable", "times": 1}},
)  # fmt: skip
SLOW = Program("dspex-doctor-slow", ASKED, adapter="scripted", timeout=30, module_options={"sleep_ms": 25_000})
ACTING = Program(
    "dspex-doctor-acting", ASKED, adapter="scripted", timeout=30, limits=Limits(),
    actions=[
        Action("complex_validation", options={"rules": ["answer.length >= 1"]}),
        Action("resource_management", options={"max_lm_calls": 5, "max_model_seconds": 20}),
    ],
)  # fmt: skip


def submit(deployment: Deployment, program: Program, question: str, *, stream: bool = False) -> Execution:
    """Deploy the program and submit one execution, ahead of other work."""
    deployment.deploy(program)
    return deployment.client.submit(
        program, {"question": f"{question} ({uuid4()})"}, priority=0, metadata={"by": "dspex doctor"}, stream=stream
    )
