"""Signatures, programs and executions as stored: written, read back, and never half."""

from __future__ import annotations

from uuid import uuid4

from dspex.errors import ExecutionNotFound, IdempotencyConflict, ProgramNotFound, ValidationError
from dspex.operations.doctor.check import Finding, Need, check, met, not_met
from dspex.operations.doctor.deployment import Deployment
from dspex.operations.doctor.probe_programs import ANSWERING, PATIENCE_SECONDS, submit

PRIVILEGES = "see `dspex doctor --only postgres`: this role may not do what a producer must"


@check("A program is stored, once for each content", Need.SCHEMA, mend=PRIVILEGES)
def program(deployment: Deployment) -> Finding:
    """Deployed twice, the same content is the same version; read back, it has the same signature and meaning."""
    first, second = (deployment.client.deploy(ANSWERING) for _ in range(2))
    read = deployment.client.program(ANSWERING.name)
    if first.deployed_at != second.deployed_at or read.version != ANSWERING.version:
        return not_met(f"version {read.version}, deployed was {ANSWERING.version}")
    if read.signature != ANSWERING.signature:
        return not_met("its signature was read back as another")
    return met(f"version {read.version}, signature equal")


@check("An execution is stored as submitted", Need.WORKER, mend=PRIVILEGES, seconds=PATIENCE_SECONDS + 5)
def execution(deployment: Deployment) -> Finding:
    """Inputs, metadata and status are read back as they were submitted, and it is in the list."""
    made = submit(deployment, ANSWERING, "<b>\"what's\" & 'what'?</b>")
    made.result(PATIENCE_SECONDS)
    read = deployment.client.get(made.id)
    listed = made.id in [each.id for each in deployment.client.list(program=ANSWERING.name, limit=200)]
    if read.inputs != made.inputs or read.metadata != {"by": "dspex doctor"} or not listed:
        return not_met(f"execution {made.id} was read back as another, or is not listed")
    return met(f"{read.status} by {read.adapter_used}, inputs unaltered")


@check("A key makes a submit idempotent", Need.SCHEMA, mend=PRIVILEGES)
def idempotency(deployment: Deployment) -> Finding:
    """A second submit with the same key is the first execution, and with other inputs a conflict."""
    deployment.client.deploy(ANSWERING)
    key = f"dspex-doctor-{uuid4()}"
    first, second = (
        deployment.client.submit(ANSWERING, {"question": "once?"}, idempotency_key=key, priority=0) for _ in range(2)
    )
    try:
        deployment.client.submit(ANSWERING, {"question": "twice?"}, idempotency_key=key)
    except IdempotencyConflict:
        return met("one execution, other inputs refused") if first.id == second.id else not_met("it ran twice")
    return not_met("other inputs were accepted for the same key")


@check("A submit is part of the caller's transaction", Need.SCHEMA, mend=PRIVILEGES)
def transaction(deployment: Deployment) -> Finding:
    """An execution that was submitted in a transaction that is rolled back never was."""
    deployment.client.deploy(ANSWERING)
    with deployment.database.engine.connect() as connection:  # closed without a commit: rolled back
        made = deployment.client.submit(ANSWERING, {"question": "never?"}, connection=connection)
    try:
        deployment.client.get(made.id)
    except ExecutionNotFound:
        return met("rolled back, it never was")
    return not_met(f"execution {made.id} is stored although its transaction was rolled back")


@check("What does not fit is refused and not stored", Need.SCHEMA, mend=PRIVILEGES)
def refusal(deployment: Deployment) -> Finding:
    """Inputs that do not fit, and a program that is not deployed, are refused at submit."""
    deployment.client.deploy(ANSWERING)
    refused = 0
    for name, inputs in ((ANSWERING.name, {"question": 7, "more": 1}), ("dspex-doctor-absent", {"question": "who?"})):
        try:
            deployment.client.submit(name, inputs)
        except (ValidationError, ProgramNotFound):
            refused += 1
    return met("wrong inputs, and a program that is not deployed") if refused == 2 else not_met("one was accepted")
