"""Routes of evaluations and optimisations: lists, one with its figures, its rows, and two side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dspex.client.shown.batch_data import progress_data
from dspex.errors import FieldError, ValidationError
from dspex.serve.access.principal import Principal
from dspex.serve.api.json_replies import json_reply
from dspex.serve.api.request_bodies import PAGE_DEFAULT, page_size, plain_text, read_id, read_query
from dspex.serve.gateway import Gateway, gateway_of
from dspex.serve.improvement.seen_evaluations import (
    EvaluatedRow,
    SeenEvaluation,
    changed_rows,
    lowest_rows,
    progressed,
    seen_evaluation,
    seen_evaluations,
    side_by_side,
)
from dspex.serve.improvement.seen_optimizations import (
    SeenOptimization,
    seen_optimization,
    seen_optimizations,
    tried_versions,
)
from dspex.store.improvement.evaluations import RankedRow

__all__ = ["ONLY", "ROUTES", "compared_with", "place_of", "place_text", "read_offset"]

#: The rows of an evaluation that a query may ask for.
ONLY = ("program_errors", "metric_errors")
#: No evaluation has more rows.
MOST_ROWS = 2**31


async def get_evaluations(request: Request) -> Response:
    """Evaluations, the newest first."""
    gateway, principal = await _reader(request)
    asked = read_query(request.query_params, _LISTED)
    found, after = await seen_evaluations(
        gateway, principal, program=asked.get("program"), dataset=asked.get("dataset"), before=asked.get("cursor"),
        limit=asked.get("limit", PAGE_DEFAULT),
    )  # fmt: skip
    return json_reply({"evaluations": [_evaluation(each) for each in found], "next_cursor": after})


async def get_evaluation(request: Request) -> Response:
    """An evaluation with its score and its progress."""
    gateway, principal = await _reader(request)
    found = await seen_evaluation(gateway, principal, request.path_params["id"])
    counted = (await progressed(gateway, [found]))[found.id]
    figures = {**asdict(counted.figures), "is_complete": counted.figures.is_complete}
    return json_reply({**_evaluation(found), "figures": figures, "progress": progress_data(counted.progress)})


async def get_evaluation_rows(request: Request) -> Response:
    """The executions of an evaluation, the lowest score first."""
    gateway, principal = await _reader(request)
    found = await seen_evaluation(gateway, principal, request.path_params["id"])
    asked = read_query(request.query_params, {"only": read_only, "cursor": place_of, "limit": page_size})
    rows, after = await lowest_rows(
        gateway, found, after=asked.get("cursor"), only=asked.get("only"), limit=asked.get("limit", PAGE_DEFAULT)
    )
    return json_reply({"rows": [_row(each) for each in rows], "next_cursor": after and place_text(after)})


async def get_comparison(request: Request) -> Response:
    """An evaluation beside an earlier one: whether the difference is more than noise, and the rows, the worst first."""
    gateway, principal = await _reader(request)
    asked = read_query(request.query_params, {"with": plain_text, "cursor": read_offset, "limit": page_size})
    found = await seen_evaluation(gateway, principal, request.path_params["id"])
    other = await compared_with(gateway, principal, asked.get("with", ""))
    two = await side_by_side(gateway, other, found)
    begin, limit = asked.get("cursor", 0), asked.get("limit", PAGE_DEFAULT)
    rows = await changed_rows(gateway, two, two.rows[begin : begin + limit])
    shown = [
        {
            "row": each.scores.row, "score_before": each.scores.before, "score_after": each.scores.after,
            "execution_before": str(each.before.execution.id), "execution_after": str(each.after.execution.id),
            "fields": {name: {"before": old, "after": new} for name, (old, new) in each.fields.items()},
        }
        for each in rows
    ]  # fmt: skip
    return json_reply({
        "before": _evaluation(two.before), "after": _evaluation(two.after), "verdict": two.verdict,
        "sentence": two.sentence, "difference": two.difference and asdict(two.difference), "left_out": two.left_out,
        "rows": shown, "next_cursor": str(begin + limit) if begin + limit < len(two.rows) else None,
    })  # fmt: skip


async def get_optimizations(request: Request) -> Response:
    """Optimisations, the newest first."""
    gateway, principal = await _reader(request)
    asked = read_query(request.query_params, {name: _LISTED[name] for name in ("program", "cursor", "limit")})
    found, after = await seen_optimizations(
        gateway, principal, program=asked.get("program"), before=asked.get("cursor"),
        limit=asked.get("limit", PAGE_DEFAULT),
    )  # fmt: skip
    return json_reply({"optimizations": [_optimization(each) for each in found], "next_cursor": after})


async def get_optimization(request: Request) -> Response:
    """An optimisation with the versions that it has tried."""
    gateway, principal = await _reader(request)
    found = await seen_optimization(gateway, principal, request.path_params["id"])
    tried = await tried_versions(gateway, found)
    candidates = [
        {
            "version": each.version, "score": each.score, "executions": each.executions, "failed": each.failed,
            "cost_usd": each.cost_usd, "unpriced": each.unpriced, "parents": list(each.parents),
        }
        for each in tried.candidates
    ]  # fmt: skip
    progress = {name: value for name, value in asdict(tried.progress).items() if name != "status"}
    return json_reply({**_optimization(found), "candidates": candidates, "progress": progress})


ROUTES = (
    Route("/v1/evaluations", get_evaluations, methods=["GET"]),
    Route("/v1/evaluations/{id}", get_evaluation, methods=["GET"]),
    Route("/v1/evaluations/{id}/rows", get_evaluation_rows, methods=["GET"]),
    Route("/v1/evaluations/{id}/comparison", get_comparison, methods=["GET"]),
    Route("/v1/optimizations", get_optimizations, methods=["GET"]),
    Route("/v1/optimizations/{id}", get_optimization, methods=["GET"]),
)


async def compared_with(gateway: Gateway, principal: Principal, id: str) -> SeenEvaluation:
    """The evaluation that another one is compared with. Raises ValidationError without an id, ExecutionNotFound."""
    if not id:
        raise ValidationError.of("query", [FieldError("with", "the id of an evaluation on the same dataset")])
    return await seen_evaluation(gateway, principal, id)


def place_of(text: str) -> tuple[float, int]:
    """The place in a list of executions that a cursor stands for. Raises ValueError."""
    rank, _, index = text.partition("_")
    try:
        found = float(rank), int(index[:18])
    except ValueError:
        raise ValueError("the cursor of an earlier response") from None
    if math.isnan(found[0]) or not 0 <= found[1] < MOST_ROWS:
        raise ValueError("the cursor of an earlier response")
    return found


def place_text(place: RankedRow) -> str:
    """The cursor to continue after this place."""
    return f"{place.rank!r}_{place.batch_index}"


def read_offset(text: str) -> int:
    """The cursor of a comparison: how many rows were shown before. Raises ValueError."""
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) < MOST_ROWS):
        raise ValueError("the cursor of an earlier response")
    return int(text)


def read_only(text: str) -> str:
    """The rows to list. Raises ValueError."""
    if text not in ONLY:
        raise ValueError(f"one of {', '.join(ONLY)}")
    return text


_LISTED: Mapping[str, Callable[[str], Any]] = {
    "program": plain_text, "dataset": read_id, "cursor": read_id, "limit": page_size,
}  # fmt: skip


async def _reader(request: Request) -> tuple[Gateway, Principal]:
    gateway = gateway_of(request)
    principal = await gateway.access.of_request(request)
    principal.require("read")
    return gateway, principal


def _evaluation(found: SeenEvaluation) -> dict[str, Any]:
    summary = found.summary
    return {
        "id": str(summary.id), "program": summary.program, "version": summary.version, "metric": found.metric,
        "dataset": summary.dataset, "dataset_version": summary.dataset_version, "executions": summary.size,
        "begun_at": found.begun_at,
    }  # fmt: skip


def _row(each: EvaluatedRow) -> dict[str, Any]:
    error = each.execution.shown_error
    return {
        "row": each.row, "repeat": each.repeat, "execution_id": str(each.execution.id),
        "status": each.execution.status.value, "score": each.score, "inputs": each.inputs, "outputs": each.outputs,
        "labels": each.labels, "feedback": each.feedback, "error": error and error.as_dict(),
        "metric_error": each.metric_error,
    }  # fmt: skip


def _optimization(found: SeenOptimization) -> dict[str, Any]:
    task, execution = found.task, found.execution
    return {
        "id": str(found.id), "program": found.program, "status": execution.status.value,
        "optimizer": task.get("optimizer"), "metric": task.get("metric"), "from_version": task.get("version"),
        "trainset": _dataset(task.get("trainset")), "valset": _dataset(task.get("valset")),
        "begun_at": execution.created_at, "finished_at": execution.finished_at, "version": found.version,
        "score": found.score, "ended": found.ended,
    }  # fmt: skip


def _dataset(part: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if part is None else {"name": part.get("name"), "version": part.get("version")}
