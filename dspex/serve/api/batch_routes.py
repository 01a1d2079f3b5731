"""Routes of batches: rows are streamed in, and results are streamed out."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dspex.client.batch import AsyncBatch, slots, store_all
from dspex.client.execution import AsyncExecution
from dspex.client.lookup import batch_not_found
from dspex.client.shown.batch_data import progress_data
from dspex.client.shown.execution_data import shown_values
from dspex.client.tables.batch_table import BatchTable, ParquetParts
from dspex.client.tables.given_rows import given_rows_async
from dspex.errors import BackendUnavailable, DspexError, FieldError, ValidationError
from dspex.serve import gateway_metrics
from dspex.serve.access.principal import Principal
from dspex.serve.api.bounded_stream import BoundedStream
from dspex.serve.api.json_replies import json_bytes, json_reply
from dspex.serve.api.parquet_upload import PARQUET, PARQUET_TYPES, parquet_rows, require_parquet, spooled
from dspex.serve.api.problem_details import UNEXPECTED, HttpRefusal, detail_of, outage, refusal_of
from dspex.serve.api.request_bodies import (
    PAGE_DEFAULT,
    accepted_types,
    chunks_within,
    media_type,
    page_size,
    plain_text,
    read_query,
    true_or_false,
)
from dspex.serve.api.row_upload import CSV_TYPES, JSON_LINE_TYPES, csv_rows, json_line_rows, lines_of
from dspex.serve.gateway import Gateway, gateway_of
from dspex.signatures import Signature
from dspex.store.lifecycle.selection import Selection
from dspex.store.lifecycle.status import Status
from dspex.submit.batch_rows import Rejected
from dspex.submit.bulk import Row, chunks, chunks_async
from dspex.wait.driver import Row as StoredRow
from dspex.wait.driver import steps

__all__ = ["FIRST_REJECTED", "ROUTES", "batch_data", "errors_of", "output_of", "parquet_of", "seen_batch", "upload"]

log = logging.getLogger("dspex.serve")

#: How many rejected rows a response describes; all of them are counted.
FIRST_REJECTED = 100
#: The most bytes of a row beside its values: names of fields, brackets, escapes of a few characters.
ROW_SLACK = 64 * 1024
JSON_LINES = "application/jsonl"


class _RejectedRows:
    """The rows of an upload that do not fit the signature: all are counted, the first are kept."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[Rejected] = []

    def add(self, rejected: Rejected) -> None:
        """Note a row that does not fit the signature."""
        self.count += 1
        if len(self.first) < FIRST_REJECTED:
            self.first.append(rejected)

    def as_dict(self) -> dict[str, Any]:
        """The rows as JSON-friendly data."""
        first = [{"index": each.index, "errors": [asdict(fault) for fault in each.error.errors]} for each in self.first]
        return {"count": self.count, "first": first}


async def post_batch(request: Request) -> Response:
    """Submit each row of the body."""
    gateway = gateway_of(request)
    principal = await gateway.access.of_request(request)
    _refuse_key(request)
    kind = media_type(request)
    if kind not in JSON_LINE_TYPES | CSV_TYPES | PARQUET_TYPES:
        detail = f"send the rows as {JSON_LINES}, text/csv or {PARQUET}"
        raise HttpRefusal(415, "unsupported_media_type", detail)
    settings = gateway.settings
    parts = chunks_within(request, settings.serve_upload_bytes, settings.serve_read_seconds)
    webhook = read_query(request.query_params, {"webhook": plain_text}).get("webhook")
    data = await upload(gateway, principal, request.path_params["name"], parts, kind, webhook=webhook)
    location = f"{request.scope.get('root_path', '')}/v1/batches/{data['id']}"
    return json_reply(data, 202, {"Location": location})


async def upload(
    gateway: Gateway,
    principal: Principal,
    name: str,
    parts: AsyncIterator[bytes],
    kind: str,
    *,
    webhook: str | None = None,
) -> Mapping[str, Any]:
    """Submit the rows of a body. Returns the batch with the rows that were rejected, as JSON-friendly data.

    ``kind`` is the media type of the body; ``webhook`` the address that is posted to once the batch is over.

    Raises HttpRefusal, also when no row fits, and the errors of Client.submit_many. When rows were stored before an
    error, they are cancelled, and HttpRefusal has ``batch_id``, ``stored`` and ``cancelled`` among its members.
    """
    principal.require("submit")
    principal.require_program(name)
    await gateway.limits.count(principal)
    if kind in PARQUET_TYPES:
        require_parquet(415, "unsupported_media_type")
    begin = partial(gateway.blocking._submitter.begin, name, tenant=principal.tenant, webhook=webhook)
    stored, intake = await gateway.in_thread(begin)
    batch, rejected = AsyncBatch(gateway.session, stored), _RejectedRows()
    try:
        async with _row_groups(gateway, intake.signature, parts, kind) as groups:
            await store_all(gateway.session.driver, intake, groups, rejected.add)
        if len(batch):
            await gateway.in_thread(intake.finish)
    except Exception as error:
        raise await _broken_off(batch, error) from error
    if not len(batch):
        raise _no_row_stored(batch, rejected)
    gateway_metrics.submitted(principal.tenant, len(batch))
    return {
        "id": str(batch.id), "program": batch.program, "rows": batch.size, "stored": len(batch),
        "rejected": rejected.as_dict(),
    }  # fmt: skip


def _no_row_stored(batch: AsyncBatch, rejected: _RejectedRows) -> HttpRefusal:
    """The response to an upload without a row that can be submitted: there is no batch then."""
    detail = "the upload has no rows, so there is no batch"
    if rejected.first:
        index, error = rejected.first[0].index, rejected.first[0].error
        detail = f"no row of the upload fits the program, so there is no batch; row {index}: {detail_of(error)}"
    return HttpRefusal(422, "no_row_stored", detail, rows=batch.size, rejected=rejected.as_dict())


async def _broken_off(batch: AsyncBatch, error: Exception) -> HttpRefusal:
    """Cancel what an upload stored before this error. Returns the response, which states what became of the rows."""
    refusal = _refusal(error)
    try:
        cancelled = await batch.cancel()
    except Exception:
        log.exception("batch %s of an upload that broke off was not cancelled", batch.id)
        found, stored, cancelled = _left(batch), len(batch), 0
    else:
        stored = max(len(batch), cancelled)  # whether the last rows were stored may not be known
        if not stored:
            refusal.detail += ". No row was stored"
            return refusal
        found = _cancelled(batch, stored, cancelled)
    code = refusal.code  # an unexpected error is logged already
    log.warning("an upload broke off: batch %s, %d rows stored, %d cancelled: %s", batch.id, stored, cancelled, code)
    refusal.detail = f"{refusal.detail}. {found}"
    refusal.members.update(batch_id=str(batch.id), stored=stored, cancelled=cancelled)
    return refusal


def _refusal(error: Exception) -> HttpRefusal:
    """What ends an upload, without what to do about its rows."""
    if isinstance(error, HttpRefusal):
        return error
    if not isinstance(error, DspexError):
        log.error("an upload broke off", exc_info=error)
        return HttpRefusal(500, "unexpected", UNEXPECTED)
    refusal = refusal_of(error)
    if isinstance(error, BackendUnavailable):
        refusal.detail = outage(error)
    return refusal


def _cancelled(batch: AsyncBatch, stored: int, cancelled: int) -> str:
    """What became of the rows of an upload, and what to do."""
    if stored == cancelled:
        return f"The rows stored before, {stored} of batch {batch.id}, are cancelled: send all rows again"
    return (
        f"Of the rows stored before, {stored} of batch {batch.id}, {cancelled} are cancelled and {stored - cancelled} "
        f"had ended: send the rows again, without those that /v1/batches/{batch.id}/output has"
    )


def _left(batch: AsyncBatch) -> str:
    """What became of rows that could not be cancelled, and what to do."""
    return (
        f"The rows stored before, at least {len(batch)} of batch {batch.id}, could not be cancelled and will run. "
        f"Cancel them with POST /v1/batches/{batch.id}/cancel before you send the rows again, or they run twice; "
        f"it is 404 if no row was stored"
    )


@asynccontextmanager
async def _row_groups(
    gateway: Gateway, signature: Signature, parts: AsyncIterator[bytes], kind: str
) -> AsyncIterator[AsyncIterator[Sequence[Row]]]:
    """The rows of a body, in groups that are stored together."""
    if kind in PARQUET_TYPES:
        driver = gateway.session.driver
        async with (
            spooled(driver, parts) as path,
            aclosing(steps(driver, chunks(parquet_rows(path, signature)))) as groups,
        ):
            yield groups
        return
    most = gateway.settings.max_input_bytes + ROW_SLACK
    is_csv = kind in CSV_TYPES
    rows = csv_rows(parts, signature, most) if is_csv else json_line_rows(lines_of(parts, most))
    yield chunks_async(given_rows_async(rows, signature))


async def get_batches(request: Request) -> Response:
    """The latest batches."""
    gateway = gateway_of(request)
    principal = await gateway.access.of_request(request)
    principal.require("read")
    principal.require_whole("list executions with batch=ID")
    asked = read_query(request.query_params, {"program": plain_text, "limit": page_size})
    found = await gateway.client.batches(program=asked.get("program"), limit=asked.get("limit", PAGE_DEFAULT))
    shown = [
        {"id": str(b.id), "program": b.program, "begun_at": b.begun_at, "progress": progress_data(b.progress)}
        for b in found
    ]
    return json_reply({"batches": shown})


async def get_batch(request: Request) -> Response:
    """The progress of a batch, and its failures by cause."""
    _, _, batch = await _seen(request, "read")
    return json_reply(await batch_data(batch))


async def get_output(request: Request) -> Response:
    """A JSON line for each completed row, in the order of the rows; with ``follow=true`` also for those to come.

    A Parquet file with them, where ``Accept`` asks for one.
    """
    gateway, principal, batch = await _seen(request, "read")
    follow = read_query(request.query_params, {"follow": true_or_false}).get("follow", False)
    if PARQUET_TYPES.intersection(accepted_types(request)):
        require_parquet(406, "not_acceptable")
        headers = {"Content-Disposition": f'attachment; filename="{batch.id}.parquet"'}
        return BoundedStream(gateway, principal, parquet_of(gateway, batch, follow=follow), PARQUET, headers)
    return BoundedStream(gateway, principal, output_of(gateway, batch, follow=follow), JSON_LINES)


async def get_errors(request: Request) -> Response:
    """A JSON line for each row that was rejected, failed or was cancelled."""
    gateway, principal, batch = await _seen(request, "read")
    return BoundedStream(gateway, principal, errors_of(gateway, batch), JSON_LINES)


async def post_cancel(request: Request) -> Response:
    """Cancel the queued and running executions of a batch."""
    gateway, principal, batch = await _seen(request, "operate")
    cancelled = await gateway.cancel_batch(principal, batch.id)
    return json_reply({"id": str(batch.id), "cancelled": cancelled}, 202)


async def post_retry(request: Request) -> Response:
    """Queue the failed executions of a batch again."""
    gateway, principal, batch = await _seen(request, "operate")
    retried = await gateway.retry_failed(principal, Selection(batch_id=batch.id))
    return json_reply({"id": str(batch.id), "retried": retried}, 202)


ROUTES = (
    Route("/v1/programs/{name}/batches", post_batch, methods=["POST"]),
    Route("/v1/batches", get_batches, methods=["GET"]),
    Route("/v1/batches/{id}", get_batch, methods=["GET"]),
    Route("/v1/batches/{id}/output", get_output, methods=["GET"]),
    Route("/v1/batches/{id}/errors", get_errors, methods=["GET"]),
    Route("/v1/batches/{id}/cancel", post_cancel, methods=["POST"]),
    Route("/v1/batches/{id}/retry", post_retry, methods=["POST"]),
)


async def batch_data(batch: AsyncBatch) -> dict[str, Any]:
    """A batch as JSON-friendly data."""
    return {
        "id": str(batch.id), "program": batch.program, "rows": batch.size, "stored": len(batch),
        "progress": progress_data(await batch.progress), "failures": dict(await batch.failures),
    }  # fmt: skip


async def seen_batch(gateway: Gateway, principal: Principal, id: str) -> AsyncBatch:
    """The batch with this id. Raises ExecutionNotFound, also for one that this principal may not see."""
    batch = await gateway.client.batch(id)
    if principal.tenant is not None or principal.programs is not None:
        first = await gateway.call(gateway.session.row, batch.ids[0])  # all rows have one tenant and program
        if not principal.sees(first):
            raise await gateway.call(batch_not_found, gateway.session.database, batch.id)
    return batch


def _refuse_key(request: Request) -> None:
    """Raise ValidationError for an Idempotency-Key: a repeated upload is another batch."""
    if "idempotency-key" in request.headers:
        expected = "no key: an upload that is sent twice is two batches"
        raise ValidationError.of("request", [FieldError("Idempotency-Key", expected)])


async def _seen(request: Request, scope: str) -> tuple[Gateway, Principal, AsyncBatch]:
    gateway = gateway_of(request)
    principal = await gateway.access.of_request(request)
    principal.require(scope)
    return gateway, principal, await seen_batch(gateway, principal, request.path_params["id"])


async def output_of(gateway: Gateway, batch: AsyncBatch, *, follow: bool) -> AsyncGenerator[bytes, None]:
    if follow:
        yield b""  # the head of the response does not wait for the first row
    async with aclosing(_executions(gateway, batch, follow=follow)) as executions:
        async for execution in executions:
            if execution.status is Status.COMPLETED:
                _, result = await gateway.call(shown_values, gateway.session, execution._row)
                yield _line(execution.batch_index, str(execution.id), "result", result)


async def parquet_of(gateway: Gateway, batch: AsyncBatch, *, follow: bool) -> AsyncGenerator[bytes, None]:
    """A Parquet file of the completed rows: their index, execution, inputs and outputs."""
    if follow:
        yield b""  # the head of the response does not wait for the first row
    file: ParquetParts | None = None
    async with aclosing(_executions(gateway, batch, follow=follow)) as executions:
        async for execution in executions:
            if execution.status is Status.COMPLETED:
                if file is None:
                    file = await gateway.call(_parquet, gateway, batch, execution._row)
                if file.table.add(execution._row):
                    yield await gateway.in_thread(file.take)
    if file is None:
        file = await gateway.call(_parquet, gateway, batch, None)
    yield await gateway.in_thread(file.end)


def _parquet(gateway: Gateway, batch: AsyncBatch, row: StoredRow | None) -> ParquetParts:
    """A file for rows like this one; without any row, for the program's current version."""
    session = gateway.session
    signature = session.catalogue.current(batch.program).signature if row is None else session.signature(row)
    return ParquetParts(BatchTable(session.sealing, signature, hidden=True))


async def errors_of(gateway: Gateway, batch: AsyncBatch) -> AsyncGenerator[bytes, None]:
    for index in batch.missing:
        yield _line(index, None, "error", {"code": "rejected", "message": "the row did not fit the signature"})
    async with aclosing(_executions(gateway, batch, follow=False)) as executions:
        async for execution in executions:
            if (failure := _failure(execution)) is not None:
                yield _line(execution.batch_index, str(execution.id), "error", failure)


async def _executions(gateway: Gateway, batch: AsyncBatch, *, follow: bool) -> AsyncGenerator[AsyncExecution, None]:
    """The executions of a batch in the order of its rows: those that are final now, or each once it is."""
    if follow:
        async with aclosing(batch.in_order()) as executions:
            async for execution in executions:
                yield execution
        return
    for group in slots(batch._rows):
        rows = await gateway.call(gateway.session.rows, [slot.id for slot in group if slot.id is not None])
        for row in sorted(rows, key=lambda row: row["batch_index"]):
            if Status(row["status"]).is_final:
                yield gateway.of_row(row)


def _failure(execution: AsyncExecution) -> dict[str, Any] | None:
    """Why an execution has no result; None for one that has, or may still get one."""
    if execution.status is Status.CANCELLED:
        return DspexError(f"execution {execution.id} was cancelled", code="cancelled").as_dict()
    error = execution.shown_error if execution.status is Status.FAILED else None
    return None if error is None else error.as_dict()


def _line(index: int | None, id: str | None, name: str, value: Any) -> bytes:
    """A line in the form of the files of ``dspex batch``."""
    return json_bytes({"index": index, "id": id, name: value}) + b"\n"
