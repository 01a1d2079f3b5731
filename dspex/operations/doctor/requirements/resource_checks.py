"""Programs and executions in Postgres: stored, read back unchanged, and never in part."""

from __future__ import annotations

from uuid import uuid4

from dspex.errors import ExecutionNotFound, IdempotencyConflict, ProgramNotFound, ValidationError
from dspex.operations.doctor.check import Finding, Need, check, met, not_met
from dspex.operations.doctor.deployment import Deployment
from dspex.operations.doctor.probe_programs import ANSWERING, RESULT_SECONDS, submit

PRIVILEGES = "see `dspex doctor --only postgres`: this role lacks rights of a producer"


@check("A program is stored once for each content", Need.SCHEMA, fix=PRIVILEGES)
def program(deployment: Deployment) -> Finding:
    """The same content deployed twice is one version, and is read back with the same signature."""
    first, second = (deployment.deploy(ANSWERING) for _ in range(2))
    read = deployment.client.program(ANSWERING.name)
    if first.deployed_at != second.deployed_at or read.version != ANSWERING.version:
        return not_met(f"version {read.version}, deployed was {ANSWERING.version}")
    if read.signature != ANSWERING.signature:
        return not_met("it was read back with another signature")
    return met(f"version {read.version}, signature equal")


@check("An execution is stored as submitted", Need.WORKER, fix=PRIVILEGES, seconds=RESULT_SECONDS + 5)
def execution(deployment: Deployment) -> Finding:
    """Inputs, metadata and status are read back as submitted, and the execution is listed."""
    made = submit(deployment, ANSWERING, "<b>\"what's\" & 'what'?</b>")
    made.result(RESULT_SECONDS)
    read = deployment.client.get(made.id)
    listed = made.id in [each.id for each in deployment.client.list(program=ANSWERING.name, limit=200)]
    if read.inputs != made.inputs or read.metadata != {"by": "dspex doctor"} or not listed:
        return not_met(f"execution {made.id} was read back as another, or is not listed")
    return met(f"{read.status} by {read.adapter_used}, inputs unaltered")


@check("An idempotency key works", Need.SCHEMA, fix=PRIVILEGES)
def idempotency(deployment: Deployment) -> Finding:
    """A second submit with the same key returns the first execution; with other inputs it is a conflict."""
    deployment.deploy(ANSWERING)
    key = f"dspex-doctor-{uuid4()}"
    first, second = (
        deployment.client.submit(ANSWERING, {"question": "once?"}, idempotency_key=key, priority=0) for _ in range(2)
    )
    try:
        deployment.client.submit(ANSWERING, {"question": "twice?"}, idempotency_key=key)
    except IdempotencyConflict:
        return met("one execution, other inputs refused") if first.id == second.id else not_met("it ran twice")
    return not_met("other inputs were accepted for the same key")


@check("A submit is part of the caller's transaction", Need.SCHEMA, fix=PRIVILEGES)
def transaction(deployment: Deployment) -> Finding:
    """An execution submitted in a transaction that is rolled back is not stored."""
    deployment.deploy(ANSWERING)
    with deployment.database.engine.connect() as connection:  # closed without a commit: rolled back
        made = deployment.client.submit(ANSWERING, {"question": "never?"}, connection=connection)
    try:
        deployment.client.get(made.id)
    except ExecutionNotFound:
        return met("rolled back, not stored")
    return not_met(f"execution {made.id} is stored although its transaction was rolled back")


@check("Invalid submits are refused", Need.SCHEMA, fix=PRIVILEGES)
def refusal(deployment: Deployment) -> Finding:
    """Invalid inputs and a program that is not deployed are refused at submit."""
    deployment.deploy(ANSWERING)
    refused = 0
    for name, inputs in ((ANSWERING.name, {"question": 7, "more": 1}), ("dspex-doctor-absent", {"question": "who?"})):
        try:
            deployment.client.submit(name, inputs)
        except (ValidationError, ProgramNotFound):
            refused += 1
    return met("invalid inputs, and a program that is not deployed") if refused == 2 else not_met("one was accepted")
