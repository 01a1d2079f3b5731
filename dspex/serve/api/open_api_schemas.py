"""The shapes of the HTTP interface that do not depend on programs, as JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dspex.store.lifecycle.status import Status

__all__ = ["ERRORS", "SCHEMAS", "nullable", "object_of", "ref"]

Json = dict[str, Any]

#: What each status of a problem means.
ERRORS: Mapping[int, str] = {
    400: "The request cannot be read.",
    401: "No key, or one that is not in force.",
    402: "The budget of the key's tenant is spent for this month.",
    403: "The key may not do this.",
    404: "There is no such thing, or the key may not see it.",
    406: "The gateway cannot make what is accepted.",
    408: "The body did not come in time.",
    409: "Its state, or an earlier request with the same key, does not allow it.",
    413: "The body is too large.",
    415: "The body has another media type.",
    422: "Values do not fit: every fault with its JSON pointer.",
    429: "The key has reached its rate limit: see Retry-After.",
    503: "A backend is out of reach: see Retry-After.",
}


def ref(name: str) -> Json:
    """A reference to a schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def nullable(schema: Json) -> Json:
    """The schema, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def object_of(properties: Mapping[str, Json], required: Sequence[str] | None = None) -> Json:
    """An object with these members, all of them required unless ``required`` names some."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties if required is None else required),
    }


_TEXT: Json = {"type": "string"}
_INTEGER: Json = {"type": "integer"}
_NUMBER: Json = {"type": "number"}
_BOOLEAN: Json = {"type": "boolean"}
_TIME: Json = {"type": "string", "format": "date-time"}
_UUID: Json = {"type": "string", "format": "uuid"}
_ANY_OBJECT: Json = {"type": "object"}
_STATUS: Json = {"enum": [str(status) for status in Status]}

_FAILURE = object_of({"type": _TEXT, "code": _TEXT, "message": _TEXT, "retryable": _BOOLEAN, "details": _ANY_OBJECT})
_METRICS = object_of(
    {
        "execution_time_ms": _NUMBER, "queue_time_ms": _NUMBER, "lm_calls": _INTEGER, "prompt_tokens": _INTEGER,
        "completion_tokens": _INTEGER, "cost_usd": nullable(_NUMBER), "replayed_lm_calls": _INTEGER,
        "unpriced_lm_calls": _INTEGER,
    }
)  # fmt: skip
_EXECUTION: Mapping[str, Json] = {
    "id": _UUID, "program": _TEXT, "version": _TEXT, "status": _STATUS, "attempts": _INTEGER, "priority": _INTEGER,
    "created_at": _TIME, "started_at": nullable(_TIME), "finished_at": nullable(_TIME), "adapter_used": nullable(_TEXT),
    "cause_code": nullable(_TEXT), "error": nullable({"$ref": "#/components/schemas/Failure"}),
    "metrics": {"$ref": "#/components/schemas/Metrics"}, "metadata": nullable(_ANY_OBJECT),
    "action_results": _ANY_OBJECT, "trace_id": nullable(_TEXT), "batch_id": nullable(_UUID),
    "parent_id": nullable(_UUID), "tenant": nullable(_TEXT),
    "internal": _BOOLEAN, "waiting_for": nullable({"enum": ["batch", "approval", "child"]}),
    "waiting_since": nullable(_TIME),
}  # fmt: skip
_PROGRESS = object_of(
    {
        **dict.fromkeys(("total", "completed", "failed", "cancelled", "running", "queued"), _INTEGER),
        **dict.fromkeys(("unpriced", "waiting", "bundled", "finished"), _INTEGER),
        **dict.fromkeys(("cost_usd", "saved_usd"), _NUMBER),
        "eta_seconds": nullable(_NUMBER),
    }
)
_PROGRAM: Mapping[str, Json] = {
    "name": _TEXT, "version": _TEXT, "deployed_at": _TIME, "description": nullable(_TEXT), "model": nullable(_TEXT),
    "module": nullable(_TEXT), "paused": _BOOLEAN, "paused_reason": nullable(_TEXT),
}  # fmt: skip
_COUNTS: Mapping[str, Json] = {"queued": _INTEGER, "running": _INTEGER, "spent_usd": nullable(_NUMBER)}
_FAULT = object_of(
    {"pointer": _TEXT, "expected": _TEXT, "got": _TEXT, "constraint": _TEXT}, required=("pointer", "expected")
)
_AUTHOR: Json = {
    "anyOf": [{**_TEXT, "maxLength": 100}, {"type": "null"}],
    "description": "Who decides or judges, by whom the key is used. The name of the key is recorded in any case.",
}
_FEEDBACK: Mapping[str, Json] = {
    "at": _TIME, "score": nullable(_NUMBER), "outputs": nullable(_ANY_OBJECT), "note": nullable(_TEXT),
    "by": nullable(_TEXT),
}  # fmt: skip
_ROW_FAULT = object_of({"path": _TEXT, "expected": _TEXT, "got": _TEXT, "constraint": nullable(_TEXT)})


_GUARD: Mapping[str, Json] = {
    "max_error_rate": nullable({"type": "number", "minimum": 0, "maximum": 1}), "min_score": nullable(_NUMBER),
    "max_cost_ratio": nullable({"type": "number", "minimum": 0}), "min_executions": {"type": "integer", "minimum": 1},
}  # fmt: skip
_EVALUATION: Mapping[str, Json] = {
    "id": _UUID, "program": _TEXT, "version": _TEXT, "metric": _TEXT, "dataset": nullable(_TEXT),
    "dataset_version": nullable(_TEXT), "executions": _INTEGER, "begun_at": _TIME,
}  # fmt: skip
_DATASET = nullable(object_of({"name": nullable(_TEXT), "version": nullable(_TEXT)}))
_OPTIMIZATION: Mapping[str, Json] = {
    "id": _UUID, "program": _TEXT, "status": _STATUS, "optimizer": nullable(_TEXT), "metric": nullable(_TEXT),
    "from_version": nullable(_TEXT), "trainset": _DATASET, "valset": _DATASET, "begun_at": _TIME,
    "finished_at": nullable(_TIME), "version": nullable(_TEXT), "score": nullable(_NUMBER), "ended": nullable(_TEXT),
}  # fmt: skip
_IMPROVEMENT: Mapping[str, Json] = {
    "Version": object_of({
        "version": _TEXT, "deployed_at": _TIME, "current": _BOOLEAN, "aliases": {"type": "array", "items": _TEXT},
        "note": nullable(_TEXT), "rollout_percent": nullable(_NUMBER),
    }),
    "Versions": object_of({"versions": {"type": "array", "items": ref("Version")}, "next_cursor": nullable(_TEXT)}),
    "VersionDiff": object_of({
        "before": _TEXT, "after": _TEXT,
        "differences": {"type": "array", "items": object_of({
            "part": _TEXT, "before": {}, "after": {}, "breaks": nullable(_TEXT),
        })},
    }),
    "Promotion": object_of({"version": {**_TEXT, "description": "A version or an alias."}}),
    "Promoted": object_of({"name": _TEXT, "version": _TEXT}),
    "Alias": object_of({"alias": _TEXT, "version": {**_TEXT, "description": "A version or an alias."}}),
    "Guard": object_of(_GUARD, required=()),
    "RolloutBegin": object_of(
        {
            "version": {**_TEXT, "description": "A version or an alias."},
            "percent": {"type": "number", "exclusiveMinimum": 0, "maximum": 100,
                        "description": "The share of new submits; 10 if left out."},
            "guard": {**ref("Guard"), "description": "What ends the rollout by itself."},
        },
        required=("version",),
    ),
    "Rollout": object_of({
        "id": _UUID, "program": _TEXT, "version": _TEXT, "percent": _NUMBER, "guard": ref("Guard"), "begun_at": _TIME,
        "ended_at": nullable(_TIME), "reason": nullable(_TEXT), "tripped": nullable(_TEXT),
    }),
    "ProgramChange": object_of({
        "kind": {"enum": ["promoted", "alias_set", "rollout_begun", "rollout_ended", "paused", "resumed"]},
        "version": nullable(_TEXT), "about": nullable(_TEXT), "by": nullable(_TEXT), "at": _TIME,
    }),
    "Evaluations": object_of({
        "evaluations": {"type": "array", "items": object_of(_EVALUATION)}, "next_cursor": nullable(_UUID)
    }),
    "Evaluation": object_of({
        **_EVALUATION, "progress": ref("Progress"),
        "figures": object_of({
            "score": nullable(_NUMBER), "scored": _INTEGER, "failed": _INTEGER, "unscored": _INTEGER,
            "unpaid": _INTEGER, "total": _INTEGER, "is_complete": _BOOLEAN,
        }),
    }),
    "EvaluationRows": object_of({
        "rows": {"type": "array", "items": object_of({
            "row": _INTEGER, "repeat": _INTEGER, "execution_id": _UUID, "status": _STATUS, "score": nullable(_NUMBER),
            "inputs": _ANY_OBJECT, "outputs": nullable(_ANY_OBJECT), "labels": _ANY_OBJECT,
            "feedback": nullable(_TEXT), "error": nullable(ref("Failure")), "metric_error": nullable(_ANY_OBJECT),
        })},
        "next_cursor": nullable(_TEXT),
    }),
    "EvaluationComparison": object_of({
        "before": object_of(_EVALUATION), "after": object_of(_EVALUATION),
        "verdict": {"enum": ["better", "worse", "noise", "unknown"]}, "sentence": _TEXT, "left_out": _INTEGER,
        "difference": nullable(object_of({
            "mean": _NUMBER, "low": _NUMBER, "high": _NUMBER, "better": _INTEGER, "worse": _INTEGER, "same": _INTEGER,
            "p_value": _NUMBER,
        })),
        "rows": {"type": "array", "items": object_of({
            "row": _INTEGER, "score_before": _NUMBER, "score_after": _NUMBER, "execution_before": _UUID,
            "execution_after": _UUID,
            "fields": {"type": "object", "additionalProperties": object_of({"before": {}, "after": {}})},
        })},
        "next_cursor": nullable(_TEXT),
    }),
    "Optimizations": object_of({
        "optimizations": {"type": "array", "items": object_of(_OPTIMIZATION)}, "next_cursor": nullable(_UUID)
    }),
    "Optimization": object_of({
        **_OPTIMIZATION,
        "candidates": {"type": "array", "items": object_of({
            "version": _TEXT, "score": nullable(_NUMBER), "executions": _INTEGER, "failed": _INTEGER,
            "cost_usd": nullable(_NUMBER), "unpriced": _INTEGER, "parents": {"type": "array", "items": _TEXT},
        })},
        "progress": object_of({
            "candidates": _INTEGER, "executions": _INTEGER, "finished": _INTEGER, "failed": _INTEGER,
            "cost_usd": nullable(_NUMBER), "unpriced": _INTEGER,
        }),
    }),
}  # fmt: skip


_REJECTED = object_of({
    "count": _INTEGER,
    "first": {"type": "array",
              "items": object_of({"index": _INTEGER, "errors": {"type": "array", "items": _ROW_FAULT}})},
})  # fmt: skip
SCHEMAS: Mapping[str, Json] = {
    **_IMPROVEMENT,
    "Problem": object_of(
        {
            "type": _TEXT, "title": _TEXT, "status": _INTEGER, "code": _TEXT, "detail": _TEXT, "retryable": _BOOLEAN,
            "errors": {"type": "array", "items": _FAULT}, "retry_after_seconds": _NUMBER, "execution_id": _TEXT,
            "batch_id": {**_UUID, "description": "The batch of an upload that broke off after rows were stored."},
            "stored": {**_INTEGER, "description": "How many rows of it were stored."},
            "cancelled": {**_INTEGER, "description": "How many of them are cancelled."},
            "rows": {**_INTEGER, "description": "How many rows an upload has of which none was stored."},
            "rejected": _REJECTED,
        },
        required=("type", "title", "status", "code", "detail"),
    ),
    "Failure": _FAILURE,
    "Metrics": _METRICS,
    "Submit": object_of(
        {
            "inputs": {"type": "object", "description": "The inputs, as the program's signature says."},
            "priority": {"type": "integer", "minimum": 0, "maximum": 9, "description": "0 runs first; 5 if left out."},
            "run_at": {**_TIME, "description": "Not before this time."},
            "timeout": {"type": "number", "exclusiveMinimum": 0, "maximum": 86400,
                        "description": "Seconds that an attempt may take."},
            "metadata": {"type": "object", "description": "Your own data, stored with the execution."},
            "stream": {"type": "boolean", "description": "Whether events have the text while the model writes it."},
            "webhook": {"type": "string", "format": "uri", "description": "An address that the outcome is posted to."},
        },
        required=("inputs",),
    ),
    "Execution": object_of(
        {**_EXECUTION, "inputs": _ANY_OBJECT, "result": nullable(_ANY_OBJECT)}, required=tuple(_EXECUTION)
    ),
    "Executions": object_of(
        {"executions": {"type": "array", "items": object_of(_EXECUTION)}, "next_cursor": nullable(_TEXT)}
    ),
    "Approvals": object_of({"approvals": {"type": "array", "items": ref("Approval")}, "next_cursor": nullable(_TEXT)}),
    "Approval": object_of(
        {
            "execution_id": _UUID, "call_id": _TEXT, "program": _TEXT, "version": _TEXT, "tenant": nullable(_TEXT),
            "tool": _TEXT,
            "arguments": {"anyOf": [_ANY_OBJECT, _TEXT], "description": "`<secret>` where they are sealed."},
            "requested_at": _TIME, "expires_at": nullable(_TIME),
        }
    ),
    "Decision": object_of(
        {
            "call_id": {**_TEXT, "description": "The call, as a list of approvals names it."},
            "note": {**nullable(_TEXT), "description": "Why. After a rejection the model sees it."},
            "by": _AUTHOR,
        },
        required=("call_id",),
    ),
    "NewFeedback": object_of(
        {
            "score": {**nullable(_NUMBER), "description": "How good the outputs are, as a rule 0 to 1."},
            "outputs": {**nullable(_ANY_OBJECT), "description": "Corrected outputs, all or some of them."},
            "note": nullable(_TEXT), "by": _AUTHOR,
        },
        required=(),
    ),
    "Feedback": object_of(_FEEDBACK),
    "FeedbackList": object_of({"feedback": {"type": "array", "items": ref("Feedback")}}),
    "RetryFailed": object_of({"program": nullable(_TEXT), "error": nullable(_TEXT)}, required=()),
    "Upload": object_of(
        {
            "id": _UUID, "program": _TEXT, "rows": _INTEGER, "stored": _INTEGER,
            "rejected": _REJECTED,
        }
    ),
    "Progress": _PROGRESS,
    "Batch": object_of(
        {
            "id": _UUID, "program": _TEXT, "rows": _INTEGER, "stored": _INTEGER, "progress": ref("Progress"),
            "failures": {"type": "object", "additionalProperties": _INTEGER},
        }
    ),
    "BatchSummary": object_of({"id": _UUID, "program": _TEXT, "begun_at": _TIME, "progress": ref("Progress")}),
    "Programs": object_of({
        "programs": {"type": "array", "items": object_of({**_PROGRAM, **_COUNTS}, required=tuple(_PROGRAM))}
    }),
    "Program": object_of(
        {
            **_PROGRAM, **_COUNTS, "signature": _TEXT, "fingerprint": _TEXT, "inputs_schema": _ANY_OBJECT,
            "outputs_schema": _ANY_OBJECT,
        },
        required=(*_PROGRAM, "signature", "fingerprint", "inputs_schema", "outputs_schema"),
    ),
    "Health": object_of(
        {
            "overall": _TEXT, "checked_at": _TIME, "version": _TEXT, "components": _ANY_OBJECT,
            "performance": _ANY_OBJECT, "resources": _ANY_OBJECT,
        }
    ),
    "Workers": object_of({"workers": {"type": "array", "items": _ANY_OBJECT}}),
    "Alerts": object_of({"alerts": {"type": "array", "items": _ANY_OBJECT}}),
}  # fmt: skip
