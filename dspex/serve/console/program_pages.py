"""The pages of programs: the list, one program with its form, pausing, and the upload of a batch."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dspex.errors import FieldError, ValidationError
from dspex.serve.access.principal import Principal
from dspex.serve.api.batch_routes import upload
from dspex.serve.api.execution_routes import submit
from dspex.serve.api.parquet_upload import PARQUET
from dspex.serve.api.program_routes import summaries
from dspex.serve.api.request_bodies import Filters
from dspex.serve.console.execution_pages import rows_of
from dspex.serve.console.input_form import controls, inputs_of_form
from dspex.serve.console.page_access import act, go_to, open_page
from dspex.serve.console.page_rendering import page
from dspex.serve.gateway import Gateway, gateway_of
from dspex.serve.improvement.program_history import versions_of

__all__ = ["ROUTES"]

#: How many of a program's latest executions its page lists.
LATEST = 10
#: How many of its latest versions.
VERSIONS = 8
PART_BYTES = 64 * 1024
#: The media types of uploads by how their files' names end; others are JSON lines.
KINDS = {"csv": "text/csv", "parquet": PARQUET}


async def programs_page(request: Request) -> Response:
    """The deployed programs."""
    gateway, principal = await open_page(request)
    return page(request, "programs.html", principal, title="Programs", programs=await summaries(gateway, principal))


async def program_page(request: Request) -> Response:
    """One program: its form, its settings, its latest executions."""
    gateway, principal = await open_page(request)
    return await _page(request, gateway, principal)


async def submit_form(request: Request) -> Response:
    """Submit what the form says, and show the execution."""
    gateway, principal, form = await act(request, "submit")
    name = request.path_params["name"]
    principal.require_program(name)  # before a 404, which would name another program
    signature = (await gateway.client.program(name)).signature
    inputs, given = inputs_of_form(signature, form)
    try:
        execution = await submit(gateway, principal, name, inputs, stream=True)
    except ValidationError as error:
        return await _page(request, gateway, principal, given=given, error=error)
    return go_to(request, f"/executions/{execution.id}")


async def upload_form(request: Request) -> Response:
    """Submit the rows of a file, and show the batch."""
    most = gateway_of(request).settings.serve_upload_bytes
    gateway, principal, form = await act(request, "submit", most=most)
    name, file = request.path_params["name"], form.get("file")
    if not isinstance(file, UploadFile) or not file.filename:
        raise ValidationError.of("the form", [FieldError("file", "a file of JSON lines, CSV, or Parquet")])
    kind = KINDS.get(file.filename.lower().rpartition(".")[2], "application/jsonl")
    try:
        data = await upload(gateway, principal, name, _parts(file), kind)
    finally:
        await form.close()
    return go_to(request, f"/batches/{data['id']}")


async def pause(request: Request) -> Response:
    """Begin no execution of a program until it is resumed."""
    gateway, principal, _ = await act(request, "operate")
    await gateway.pause(principal, request.path_params["name"])
    return go_to(request, f"/programs/{request.path_params['name']}")


async def resume(request: Request) -> Response:
    """Begin executions of a paused program again."""
    gateway, principal, _ = await act(request, "operate")
    await gateway.resume(principal, request.path_params["name"])
    return go_to(request, f"/programs/{request.path_params['name']}")


ROUTES = (
    Route("/programs", programs_page, methods=["GET"]),
    Route("/programs/{name}", program_page, methods=["GET"]),
    Route("/programs/{name}/submit", submit_form, methods=["POST"]),
    Route("/programs/{name}/upload", upload_form, methods=["POST"]),
    Route("/programs/{name}/pause", pause, methods=["POST"]),
    Route("/programs/{name}/resume", resume, methods=["POST"]),
)


async def _page(
    request: Request, gateway: Gateway, principal: Principal, *, given: dict[str, str] | None = None,
    error: ValidationError | None = None,
) -> Response:  # fmt: skip
    name = request.path_params["name"]
    principal.require_program(name)
    program = await gateway.client.program(name)
    summary = next(each for each in await gateway.client.programs(internal=True) if each.name == name)
    latest, _ = await gateway.executions(principal, Filters(program=name, limit=LATEST))
    versions, _ = await versions_of(gateway, principal, name, limit=VERSIONS)
    rollouts = await gateway.client.rollouts(name)
    return page(
        request, "program.html", principal, title=name, status=200 if error is None else 422, program=program,
        summary=summary, controls=controls(program.signature, given, error), error=error,
        rows=await rows_of(gateway, latest), versions=versions,
        under_way=next((each for each in rollouts if each.ended_at is None), None),
    )  # fmt: skip


async def _parts(file: UploadFile) -> AsyncIterator[bytes]:
    while part := await file.read(PART_BYTES):
        yield part
