"""The description of the HTTP interface (OpenAPI 3.1), with the inputs and outputs of each deployed program."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dspex.program.program import Program
from dspex.serve.api.open_api_schemas import ERRORS, SCHEMAS, nullable, object_of, ref
from dspex.serve.api.parquet_upload import PARQUET
from dspex.settings.web_settings import SCOPES
from dspex.store.lifecycle.status import Status

__all__ = ["component_name", "description", "query_names"]

Json = dict[str, Any]

_WORD = re.compile(r"[A-Za-z0-9]+")
#: Each program has schemas whose names end so.
_SUFFIXES = ("Inputs", "Outputs", "Submit", "Execution")
_EVENTS = (
    "Server-sent events. `id` is the cursor to resume after (`Last-Event-ID`), `event` the kind: `status`, `partial` "
    "(more text of a field), `field` (a complete field), `reset`, `done`, `error`; `data` is a JSON object. The stream "
    "ends with `done` or `error`."
)
_LINES = "JSON lines: an object with `index`, the number of the row from 0, `id`, and "
_OUTPUT = (
    _LINES + "`result`, for each completed row. With `Accept: application/vnd.apache.parquet` a Parquet file with the "
    "columns `index`, `execution_id`, `status`, the inputs, the outputs, `error_code` and `error_message`; a field "
    "with one of these names is `NAME_input` or `NAME_output`."
)


def description(programs: Iterable[Program], *, version: str, root_path: str = "") -> Json:
    """The whole description."""
    named = dict(zip(_names(known := list(programs)), known, strict=True))
    schemas: Json = dict(SCHEMAS)
    paths = _paths() | _improvement_paths()
    for name, program in named.items():
        schemas |= _program_schemas(name, program)
        paths |= _program_paths(name, program)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "DSPex", "version": version,
            "description": "Durable execution of DSPy programs. Every call of a program is an execution: it is stored "
            "before the response, and runs whatever happens to this process.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": root_path or "/"}],
        "security": [{"key": []}],
        "tags": [{"name": name} for name in ("executions", "batches", "programs", "improvement", "operations")],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {
                "type": "http", "scheme": "bearer",
                "description": f"A key of `dspex keys create`. Its scopes are some of {', '.join(SCOPES)}.",
            }},
        },
    }  # fmt: skip


def query_names() -> Mapping[tuple[str, str], tuple[str, ...]]:
    """The names of the query parameters of each operation, by its method and path."""
    return {
        (method.upper(), path): tuple(each["name"] for each in operation["parameters"] if each["in"] == "query")
        for path, operations in (_paths() | _improvement_paths()).items()
        for method, operation in operations.items()
    }


def component_name(program: str) -> str:
    """The name of a program as generated code can have it: ``simple_qa`` is ``SimpleQa``."""
    return "".join(word[0].upper() + word[1:] for word in _WORD.findall(program)) or "Program"


def _names(programs: Sequence[Program]) -> list[str]:
    """A name for each program that no other one and no schema of the interface has."""
    names: list[str] = []
    for program in programs:
        name, number = component_name(program.name), 1
        while name in names or any(f"{name}{suffix}" in SCHEMAS for suffix in _SUFFIXES):
            number += 1
            name = f"{component_name(program.name)}{number}"
        names.append(name)
    return names


# -------------------------------------------------------------------------------------------------------- programs


def _program_schemas(name: str, program: Program) -> Json:
    inputs, outputs = f"{name}Inputs", f"{name}Outputs"
    values = {"inputs": ref(inputs), "result": nullable(ref(outputs))}
    execution = object_of({**SCHEMAS["Execution"]["properties"], **values}, SCHEMAS["Execution"]["required"])
    return {
        inputs: _plain(program.signature.json_schema("inputs"), inputs),
        outputs: _plain(program.signature.json_schema("outputs"), outputs),
        f"{name}Submit": _submit(ref(inputs)),
        f"{name}Execution": {**execution, "title": f"{name}Execution"},
    }


def _plain(schema: Json, title: str) -> Json:
    """A schema of a signature as a component: it has the dialect of the description, and the name of the component."""
    return {**{key: value for key, value in schema.items() if key != "$schema"}, "title": title}


def _submit(inputs: Json) -> Json:
    options = SCHEMAS["Submit"]["properties"]
    return object_of({**options, "inputs": inputs}, required=("inputs",))


def _program_paths(name: str, program: Program) -> Json:
    about = program.signature.description or f"Execute the program {program.name}."
    path = f"/v1/programs/{program.name}"
    return {
        f"{path}/executions": {"post": _submitting(
            f"submit{name}", about, ref(f"{name}Submit"), ref(f"{name}Execution"), parameters=[]
        )},
        f"{path}/batches": {"post": _uploading(f"submit{name}Batch", f"Execute {program.name} for each row.", [])},
    }  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- paths


def _paths() -> Json:
    return {
        **_deployed_paths(), **_execution_paths(), **_review_paths(), **_batch_paths(), **_operation_paths(),
    }  # fmt: skip


def _deployed_paths() -> Json:
    program = _json(ref("Program"))
    return {
        "/v1/programs": {"get": _get("listPrograms", "programs", "The deployed programs.", ref("Programs"))},
        "/v1/programs/{name}": {
            "get": _get("getProgram", "programs", "A program with its schemas.", ref("Program"), _NAME, errors=(404,))
        },
        "/v1/programs/{name}/pause": {
            "post": _act("pauseProgram", "programs", "Begin no execution until it is resumed.", _NAME, {200: program})
        },
        "/v1/programs/{name}/resume": {
            "post": _act("resumeProgram", "programs", "Begin executions again.", _NAME, {200: program})
        },
        "/v1/programs/{name}/executions": {
            "post": _submitting(
                "submitExecution", "Submit an execution of any program.", ref("Submit"), ref("Execution"),
                parameters=_NAME,
            )
        },
        "/v1/programs/{name}/batches": {"post": _uploading("submitBatch", "Execute a program for each row.", _NAME)},
    }  # fmt: skip


def _execution_paths() -> Json:
    execution = _json(ref("Execution"))
    return {
        "/v1/executions": {"get": _get(
            "listExecutions", "executions",
            "Executions, the newest first. `next_cursor` is the cursor of the next page. "
            "`metadata.NAME=VALUE` limits the list to executions whose metadata has that member.",
            ref("Executions"), _filters(), errors=(422,),
        )},
        "/v1/executions/{id}": {"get": _get(
            "getExecution", "executions", "An execution with its inputs and its result.", ref("Execution"),
            [*_ID, _PREFER], errors=(404,),
        )},
        "/v1/executions/{id}/events": {"get": _streaming(
            "followExecution", "executions", _EVENTS, "text/event-stream", [
            *_ID,
            _in_header("Last-Event-ID", "The id of the last event that was received."),
            _in_query("after", {"type": "string"}, "The same, for clients that cannot set headers."),
        ], errors=(422,))},
        "/v1/executions/{id}/cancel": {"post": _act(
            "cancelExecution", "executions", "Cancel an execution.", _ID, {200: execution, 202: execution}
        )},
        "/v1/executions/{id}/retry": {"post": _act(
            "retryExecution", "executions", "Queue a failed or cancelled execution again.", _ID, {202: execution}
        )},
        "/v1/retry-failed": {"post": _sending("RetryFailed", _act(
            "retryFailed", "executions", "Queue failed executions again.", [],
            {202: _json(object_of({"retried": _INTEGER}))}, errors=(404, *_BODY_ERRORS),
        ))},
    }  # fmt: skip


def _batch_paths() -> Json:
    return {
        "/v1/batches": {"get": _get(
            "listBatches", "batches", "The latest batches.",
            object_of({"batches": {"type": "array", "items": ref("BatchSummary")}}),
            [_OF_PROGRAM, _LIMIT], errors=(422,),
        )},
        "/v1/batches/{id}": {
            "get": _get("getBatch", "batches", "A batch and its progress.", ref("Batch"), _ID, errors=(404,))
        },
        "/v1/batches/{id}/output": {"get": _streaming(
            "getBatchOutput", "batches", _OUTPUT, "application/jsonl",
            [*_ID, _in_query("follow", {"type": "boolean"}, "Also send the rows that complete later, until all have.")],
            errors=(406,), other={PARQUET: {"schema": _BYTES}},
        )},
        "/v1/batches/{id}/errors": {"get": _streaming(
            "getBatchErrors", "batches", _LINES + "`error`, for each row without a result.", "application/jsonl", _ID
        )},
        "/v1/batches/{id}/cancel": {"post": _act(
            "cancelBatch", "batches", "Cancel the rest of a batch.", _ID,
            {202: _json(object_of({"id": _UUID, "cancelled": _INTEGER}))},
        )},
        "/v1/batches/{id}/retry": {"post": _act(
            "retryBatch", "batches", "Queue the failed executions of a batch again.", _ID,
            {202: _json(object_of({"id": _UUID, "retried": _INTEGER}))},
        )},
    }  # fmt: skip


def _operation_paths() -> Json:
    return {
        "/v1/health": {"get": _get("getHealth", "operations", "The health of every component.", ref("Health"))},
        "/v1/workers": {"get": _get("listWorkers", "operations", "The live workers.", ref("Workers"))},
        "/v1/alerts": {"get": _get(
            "listAlerts", "operations", "Alerts that fire, are pending, or were resolved within a day.", ref("Alerts")
        )},
    }  # fmt: skip


def _improvement_paths() -> Json:
    """Versions, evaluations and optimisations."""
    return {**_version_paths(), **_rollout_paths(), **_evaluation_paths(), **_optimization_paths()}


def _version_paths() -> Json:
    return {
        "/v1/programs/{name}/versions": {"get": _get(
            "listVersions", "programs", "The versions of a program, the newest first.", ref("Versions"),
            [*_NAME, *_PAGE], errors=(404, 422),
        )},
        "/v1/programs/{name}/diff": {"get": _get(
            "diffVersions", "programs", "What differs between two versions of a program.", ref("VersionDiff"),
            [
                *_NAME, _in_query("before", _TEXT, "A version or an alias. It is required."),
                _in_query("after", _TEXT, "A version or an alias. It is required."),
            ],
            errors=(404, 422),
        )},
        "/v1/programs/{name}/promote": {"post": _steering(
            "promoteVersion", "Make a version the current one. Executions submitted before keep their version.", _NAME,
            ref("Promotion"), {200: _json(ref("Promoted"))},
        )},
        "/v1/programs/{name}/aliases": {"post": _steering(
            "setAlias", "Let an alias stand for a version.", _NAME, ref("Alias"),
            {200: _json(object_of({"name": _TEXT, "alias": _TEXT}))},
        )},
    }  # fmt: skip


def _rollout_paths() -> Json:
    return {
        "/v1/programs/{name}/rollouts": {
            "get": _get(
                "listRollouts", "programs", "The rollouts of a program, the newest first.",
                object_of({"rollouts": {"type": "array", "items": ref("Rollout")}}), _NAME, errors=(404, 422),
            ),
            "post": _steering(
                "beginRollout", "Send a share of the new submits to a version, until the rollout is ended or its guard "
                "ends it.", _NAME, ref("RolloutBegin"), {201: _json(ref("Rollout"))},
            ),
        },
        "/v1/programs/{name}/rollouts/end": {"post": _act(
            "endRollout", "programs", "End the rollout of a program, if there is one.", _NAME,
            {200: _json(object_of({"ended": nullable(ref("Rollout"))}))}, errors=(404, 422),
        )},
        "/v1/programs/{name}/changes": {"get": _get(
            "listChanges", "programs", "What was done to a program, when and by whom, the newest first.",
            object_of({"changes": {"type": "array", "items": ref("ProgramChange")}}), _NAME, errors=(404, 422),
        )},
    }  # fmt: skip


def _evaluation_paths() -> Json:
    return {
        "/v1/evaluations": {"get": _get(
            "listEvaluations", "improvement", "Evaluations, the newest first.", ref("Evaluations"),
            [_OF_PROGRAM, _in_query("dataset", _UUID, "Only on this version of a dataset."), *_PAGE],
            errors=(422,),
        )},
        "/v1/evaluations/{id}": {"get": _get(
            "getEvaluation", "improvement", "An evaluation with its score and its progress.", ref("Evaluation"), _ID,
            errors=(404,),
        )},
        "/v1/evaluations/{id}/rows": {"get": _get(
            "listEvaluationRows", "improvement", "The executions of an evaluation, the lowest score first.",
            ref("EvaluationRows"),
            [*_ID, _in_query("only", {"enum": ["program_errors", "metric_errors"]}, "Only rows with these."), *_PAGE],
            errors=(404, 422),
        )},
        "/v1/evaluations/{id}/comparison": {"get": _get(
            "compareEvaluations", "improvement",
            "An evaluation beside an earlier one on the same dataset. `sentence` says whether the difference is more "
            "than noise; rows that got worse come first.",
            ref("EvaluationComparison"),
            [*_ID, _in_query("with", _UUID, "The id of the earlier evaluation. It is required."), *_PAGE],
            errors=(404, 422),
        )},
    }  # fmt: skip


def _optimization_paths() -> Json:
    return {
        "/v1/optimizations": {"get": _get(
            "listOptimizations", "improvement", "Optimisations, the newest first.", ref("Optimizations"),
            [_OF_PROGRAM, *_PAGE], errors=(422,),
        )},
        "/v1/optimizations/{id}": {"get": _get(
            "getOptimization", "improvement", "An optimisation with the versions that it has tried.",
            ref("Optimization"), _ID, errors=(404,),
        )},
    }  # fmt: skip


def _steering(id: str, about: str, parameters: Sequence[Json], body: Json, responses: Mapping[int, Json]) -> Json:
    """An action on a program with options in its body."""
    errors = (400, 404, 408, 409, 413, 415, 422)
    content = {"required": True, "content": {"application/json": {"schema": body}}}
    return {**_act(id, "programs", about, parameters, responses, errors), "requestBody": content}


def _review_paths() -> Json:
    """Approvals and feedback."""
    execution = _json(ref("Execution"))
    errors = (*_BODY_ERRORS, 404, 409)
    return {
        "/v1/approvals": {"get": _get(
            "listApprovals", "executions",
            "Calls of tools that executions wait to make until somebody decides, the oldest first.", ref("Approvals"), [
            _in_query("program", {"type": "string"}, "Only calls of executions of this program."),
            _in_query("execution", _UUID, "Only calls of this execution."), *_PAGE,
        ], errors=(422,))},
        "/v1/executions/{id}/approve": {"post": _sending("Decision", _act(
            "approveCall", "executions", "Let an execution make a call that it waits to make.", _ID, {202: execution},
            errors,
        ))},
        "/v1/executions/{id}/reject": {"post": _sending("Decision", _act(
            "rejectCall", "executions", "Have an execution go on without a call that it waits to make.", _ID,
            {202: execution}, errors,
        ))},
        "/v1/executions/{id}/feedback": {
            "get": _get(
                "listFeedback", "executions", "The feedback on an execution, the oldest first.", ref("FeedbackList"),
                _ID, errors=(404,),
            ),
            "post": _sending("NewFeedback", _act(
                "giveFeedback", "executions",
                "Judge an execution that has ended. Its result stays as it is.", _ID,
                {201: _json(ref("Feedback"), "It is stored.")}, errors,
            )),
        },
    }  # fmt: skip


def _sending(schema: str, operation: Json) -> Json:
    """The operation with a body of this schema."""
    return {**operation, "requestBody": {"required": True, "content": {"application/json": {"schema": ref(schema)}}}}


def _submitting(id: str, about: str, body: Json, execution: Json, *, parameters: Sequence[Json]) -> Json:
    location = {"Location": {"description": "The path of the execution.", "schema": {"type": "string"}}}
    return {
        **_operation(id, "executions", about, [*parameters, _IDEMPOTENCY, _PREFER]),
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {
                **_json(execution, "It is final: within the wait, or from an earlier request."),
                "headers": location,
            },
            "202": {**_json(execution, "It is stored, and will run."), "headers": location},
            **_errors((400, 402, 404, 408, 409, 413, 415, 422, 429)),
        },
    }


def _uploading(id: str, about: str, parameters: Sequence[Json]) -> Json:
    rows = {kind: {"schema": {"type": "string"}} for kind in ("application/jsonl", "application/x-ndjson", "text/csv")}
    rows[PARQUET] = {"schema": _BYTES}
    webhook = _in_query("webhook", {"type": "string"}, "An address that is posted to once the batch is over.")
    return {
        **_operation(
            id, "batches", f"{about} The body is streamed: it may have millions of rows.", [*parameters, webhook]
        ),
        "requestBody": {"required": True, "content": rows},
        "responses": {"202": _json(ref("Upload")), **_errors((400, 402, 404, 408, 409, 413, 415, 422, 429))},
    }


def _get(
    id: str, tag: str, about: str, schema: Json, parameters: Sequence[Json] = (), errors: Sequence[int] = ()
) -> Json:
    return {**_operation(id, tag, about, parameters), "responses": {"200": _json(schema), **_errors(errors)}}


def _act(
    id: str, tag: str, about: str, parameters: Sequence[Json], responses: Mapping[int, Json],
    errors: Sequence[int] = (404, 409, 422),
) -> Json:  # fmt: skip
    found = {str(status): response for status, response in responses.items()}
    return {**_operation(id, tag, about, parameters), "responses": {**found, **_errors(errors)}}


def _streaming(
    id: str, tag: str, about: str, kind: str, parameters: Sequence[Json], errors: Sequence[int] = (),
    other: Mapping[str, Json] = {},
) -> Json:  # fmt: skip
    response = {"description": about, "content": {kind: {"schema": {"type": "string"}}, **other}}
    return {**_operation(id, tag, about, parameters), "responses": {"200": response, **_errors((404, *errors))}}


def _operation(id: str, tag: str, about: str, parameters: Sequence[Json]) -> Json:
    summary = about.split(". ", maxsplit=1)[0].split("\n", maxsplit=1)[0].removesuffix(".")
    return {"operationId": id, "tags": [tag], "summary": summary, "description": about, "parameters": list(parameters)}


def _errors(statuses: Sequence[int]) -> Json:
    """Problem details for these statuses, and for those that any route may have."""
    content = {"application/problem+json": {"schema": ref("Problem")}}
    found = sorted({401, 403, 422, 503, *statuses})
    return {str(status): {"description": ERRORS[status], "content": content} for status in found}


def _json(schema: Json, description: str = "Done.") -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _filters() -> list[Json]:
    return [
        _in_query("program", _TEXT, "Only executions of this program."),
        _in_query("status", {"enum": [str(status) for status in Status]}, "Only executions with this status."),
        _in_query("error", _TEXT, "Only failed executions with this error code, or this cause."),
        _in_query("batch", _UUID, "Only executions of this batch."),
        _in_query("tenant", _TEXT, "Only executions of this tenant."),
        _in_query("since", {"type": "string", "format": "date-time"}, "Only executions submitted since."),
        *_PAGE,
    ]


def _in_path(name: str, about: str) -> Json:
    return {"name": name, "in": "path", "required": True, "description": about, "schema": {"type": "string"}}


def _in_query(name: str, schema: Json, about: str) -> Json:
    return {"name": name, "in": "query", "required": False, "description": about, "schema": schema}


def _in_header(name: str, about: str, schema: Json | None = None) -> Json:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": about,
        "schema": schema or {"type": "string"},
    }


_TEXT: Json = {"type": "string"}
_INTEGER: Json = {"type": "integer"}
_BYTES: Json = {"type": "string", "format": "binary"}
_UUID: Json = {"type": "string", "format": "uuid"}
#: What a body that cannot be read, or does not fit, is answered with.
_BODY_ERRORS = (400, 408, 413, 415, 422)
_LIMIT = _in_query("limit", {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}, "The size of a page.")
_PAGE = (_in_query("cursor", {"type": "string"}, "The `next_cursor` of the page before."), _LIMIT)
_PREFER = _in_header("Prefer", "`wait=30`: wait up to so many seconds for the execution to end.")
_NAME = [_in_path("name", "The name of a deployed program.")]
_ID = [_in_path("id", "The id.")]
_OF_PROGRAM = _in_query("program", _TEXT, "Only of this program.")
_IDEMPOTENCY = _in_header(
    "Idempotency-Key", "A second submit with the same key returns the first execution.",
    {"type": "string", "minLength": 1, "maxLength": 190},
)  # fmt: skip
