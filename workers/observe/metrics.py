"""The Prometheus metrics of a worker process, by name.

Counters and histograms cover this process alone, so that they can be summed over all processes. Metrics of the whole
deployment (the queue) come from the pump's leader only; two workers may report them while the lead moves, so take the
maximum. Labels are bounded: the first programs, models and codes of a process have their own, later ones are "other".
Label values are names of programs, models and codes; never ids, inputs or outputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dspex.errors import DspexError
from dspex.operations.bounded_labels import OTHER, Bounded
from dspex.store.lifecycle.executions import Claimed
from dspex.store.lifecycle.lm_calls import LMCall
from dspex.store.lifecycle.status import Status
from dspex.store.operations.health import MOST_COUNTED, Backlog
from workers.attempt.retry_policy import Deferred

__all__ = [
    "OUTCOMES",
    "QUEUE",
    "REGISTRY",
    "answer_repaired",
    "attempt_ended",
    "claimed",
    "lm_call_ended",
    "lm_call_failed",
    "lm_call_replayed",
    "missed",
    "outcome",
]

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each that is not used
REGISTRY = CollectorRegistry()

#: How many names of a kind have their own labels in one process.
MOST_PROGRAMS, MOST_MODELS, MOST_CODES = 200, 100, 100
#: How many programs have their own labels in the queue, those that wait longest; the others are "other".
MOST_WAITING = 50
#: How an attempt ends.
OUTCOMES = ("completed", "failed", "cancelled", "waiting", "retried", "deferred", "handed_back", "discarded")

_ATTEMPT_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_QUEUE_SECONDS = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 7200)
_CALL_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)

# ------------------------------------------------------------------------------------------------------- executions

ATTEMPTS = Counter(
    "dspex_attempts_total",
    "Attempts that ended here. outcome: completed, failed, cancelled (the execution has ended); retried, deferred "
    "(by limits), handed_back (this worker stops): the execution is queued again; discarded: the lease was lost",
    ("program", "outcome"), registry=REGISTRY,
)  # fmt: skip
ATTEMPT_ERRORS = Counter(
    "dspex_attempt_errors_total", "Attempts that ended with an error", ("code",), registry=REGISTRY
)
ATTEMPT_DURATION = Histogram(
    "dspex_attempt_duration_seconds", "From the claim until the outcome is recorded", ("program",),
    buckets=_ATTEMPT_SECONDS, registry=REGISTRY,
)  # fmt: skip
QUEUE_TIME = Histogram(
    "dspex_queue_time_seconds", "From when an execution was due until it was claimed", ("program",),
    buckets=_QUEUE_SECONDS, registry=REGISTRY,
)  # fmt: skip
RECEIVED = Counter("dspex_received_total", "Executions received in messages", registry=REGISTRY)
CLAIMS = Counter(
    "dspex_claims_total",
    "Claims of received executions. result: claimed, or missed (cancelled, paused, or claimed by another worker)",
    ("result",), registry=REGISTRY,
)  # fmt: skip
RUNNING = Gauge("dspex_running", "Running attempts", registry=REGISTRY)
HELD = Gauge("dspex_held", "Received executions that have not ended: running, or waiting for a slot", registry=REGISTRY)
CONCURRENCY = Gauge("dspex_concurrency", "How many attempts can run at once", registry=REGISTRY)

# -------------------------------------------------------------------------------------------------------- model calls

LM_CALLS = Counter(
    "dspex_lm_calls_total", "Model calls that ended. outcome: ok, or the code of the error", ("model", "outcome"),
    registry=REGISTRY,
)  # fmt: skip
LM_DURATION = Histogram(
    "dspex_lm_call_duration_seconds", "Duration of a model call", ("model",), buckets=_CALL_SECONDS,
    registry=REGISTRY,
)  # fmt: skip
LM_TOKENS = Counter("dspex_lm_tokens_total", "Tokens. kind: prompt, completion", ("model", "kind"), registry=REGISTRY)
LM_COST = Counter(
    "dspex_lm_cost_usd_total", "Cost of model calls, where a price is known", ("model",), registry=REGISTRY
)
LM_SAVED = Counter(
    "dspex_lm_saved_usd_total", "What calls through batch APIs cost less than ordinary ones, where prices are known",
    ("model",), registry=REGISTRY,
)  # fmt: skip
LM_UNPRICED = Counter(
    "dspex_lm_unpriced_calls_total", "Model calls whose cost is not in dspex_lm_cost_usd_total: the price is unknown",
    ("model",), registry=REGISTRY,
)  # fmt: skip
REPAIRS = Counter(
    "dspex_answer_repairs_total", "Repairs of answers that became outputs. kind: what was done", ("model", "kind"),
    registry=REGISTRY,
)  # fmt: skip
LM_REPLAYED = Counter(
    "dspex_lm_replayed_calls_total", "Model calls answered from the journal, and not paid for again", ("model",),
    registry=REGISTRY,
)  # fmt: skip

# -------------------------------------------------------------------------------------------------------- the process

WORKER = Gauge("dspex_worker_info", "1, labelled with the version", ("version",), registry=REGISTRY)
WORKER.labels(version("dspex")).set(1)
READY = Gauge("dspex_worker_ready", "1 while the worker is registered, holds its lease and consumes", registry=REGISTRY)
LOOP_LAG = Gauge(
    "dspex_loop_lag_seconds", "How long the loop last took to answer, or has not answered", registry=REGISTRY
)
LOOP_BLOCKED = Counter("dspex_loop_blocked_seconds_total", "Time during which the loop was blocked", registry=REGISTRY)
THREADS = Gauge(
    "dspex_sync_threads", "Threads for synchronous code. state: busy, waiting (for one), lost", ("state",),
    registry=REGISTRY,
)  # fmt: skip
LEASE_AGE = Gauge("dspex_lease_age_seconds", "Time since the last renewal of the lease", registry=REGISTRY)
LEASES_LOST = Counter(
    "dspex_leases_lost_total", "How often the worker found that it was declared dead", registry=REGISTRY
)
BACKEND_FAILURES = Counter(
    "dspex_backend_failures_total", "Requests that failed because a backend was out of reach. backend: postgres, redis",
    ("backend",), registry=REGISTRY,
)  # fmt: skip
for _backend in ("postgres", "redis"):
    BACKEND_FAILURES.labels(_backend)  # an alert needs the zero before the first failure
ProcessCollector(namespace="dspex", registry=REGISTRY)  # dspex_process_{cpu_seconds_total,resident_memory_bytes,…}

# ----------------------------------------------------------------------------------------------------------- the pump

PUMP_LEADER = Gauge("dspex_pump_leader", "1 in the worker that leads the pump", registry=REGISTRY)
DISPATCHED = Counter(
    "dspex_pump_dispatched_total", "Executions that the pump dispatched to the queue", registry=REGISTRY
)
TAKEN_BACK = Counter(
    "dspex_pump_taken_back_total", "Executions dispatched again because they were never claimed", registry=REGISTRY
)
RECOVERED = Counter("dspex_pump_recovered_total", "Executions recovered from dead or stuck workers", registry=REGISTRY)
DUTY_FAILURES = Counter(
    "dspex_pump_duty_failures_total",
    "Failures of the leader's duties, which are done again: recover, take_back, budgets, starts, measure, dispatch",
    ("duty",), registry=REGISTRY,
)  # fmt: skip
WAITING = Gauge(
    "dspex_waiting",
    "Parked executions, counted by the leader, up to 100,000 each. for: batch, approval, child",
    ("for",),
    registry=REGISTRY,
)
SET_ASIDE = Gauge(
    "dspex_pump_set_aside", "Executions that Postgres refuses to change, which are tried again each minute",
    registry=REGISTRY,
)  # fmt: skip
POISONED = Counter(
    "dspex_pump_poisoned_total",
    "Recovered executions that failed because the worker of each attempt died",
    registry=REGISTRY,
)


class Queue(Collector):
    """The queue of the whole deployment, as the leader last measured it; empty while another worker leads."""

    def __init__(self) -> None:
        #: Whether the metrics are served, so that the queue has to be measured.
        self.wanted = False
        self._seen: list[Backlog] | None = None
        self._workers = 0

    def note(self, backlogs: list[Backlog], *, workers: int) -> None:
        self._seen, self._workers = backlogs, workers

    def forget(self) -> None:
        """Another worker leads."""
        self._seen = None

    def collect(self) -> Iterable[Metric]:
        if (seen := self._seen) is None:
            return
        depth = GaugeMetricFamily(
            "dspex_queue_depth",
            f"Executions that are due and not claimed, counted up to {MOST_COUNTED:,} for each program",
            labels=("program",),
        )  # fmt: skip
        wait = GaugeMetricFamily(
            "dspex_queue_oldest_wait_seconds", "How long the oldest due execution has waited", labels=("program",)
        )
        ranked = sorted(seen, key=lambda backlog: backlog.oldest_wait_seconds, reverse=True)
        for backlog in ranked[:MOST_WAITING]:
            depth.add_metric((backlog.program,), backlog.due)
            wait.add_metric((backlog.program,), backlog.oldest_wait_seconds)
        if rest := ranked[MOST_WAITING:]:
            depth.add_metric((OTHER,), sum(backlog.due for backlog in rest))
            wait.add_metric((OTHER,), rest[0].oldest_wait_seconds)
        yield depth
        yield wait
        yield GaugeMetricFamily("dspex_workers", "Workers that hold their lease", value=self._workers)


QUEUE = Queue()
REGISTRY.register(QUEUE)

# ------------------------------------------------------------------------------------------------------- recording


class _Program:
    """The series of a program, looked up once: the lookup costs more than counting."""

    def __init__(self, name: str) -> None:
        self.outcomes = Bounded(len(OUTCOMES), lambda outcome: ATTEMPTS.labels(name, outcome))
        self.duration = ATTEMPT_DURATION.labels(name)
        self.queue_time = QUEUE_TIME.labels(name)


class _Model:
    """The series of a model."""

    def __init__(self, name: str) -> None:
        self.outcomes = Bounded(MOST_CODES, lambda outcome: LM_CALLS.labels(name, outcome))
        self.duration = LM_DURATION.labels(name)
        self.prompt_tokens = LM_TOKENS.labels(name, "prompt")
        self.completion_tokens = LM_TOKENS.labels(name, "completion")
        self.cost_usd = LM_COST.labels(name)
        self.saved_usd = LM_SAVED.labels(name)
        self.unpriced = LM_UNPRICED.labels(name)
        self.replayed = LM_REPLAYED.labels(name)
        self.repairs = Bounded(MOST_CODES, lambda kind: REPAIRS.labels(name, kind))


_programs = Bounded(MOST_PROGRAMS, _Program)
_models = Bounded(MOST_MODELS, _Model)
_codes = Bounded(MOST_CODES, ATTEMPT_ERRORS.labels)
_claimed, _missed = CLAIMS.labels("claimed"), CLAIMS.labels("missed")


def claimed(execution: Claimed) -> None:
    """Count a claimed execution and its time in the queue."""
    _claimed.inc()
    waited = execution.started_at - max(execution.created_at, execution.run_at)
    _programs[execution.program].queue_time.observe(max(waited.total_seconds(), 0.0))


def missed() -> None:
    """Count a received execution that could not be claimed."""
    _missed.inc()


def attempt_ended(program: str, status: Status | None, error: DspexError | None, seconds: float) -> None:
    """Count an ended attempt; ``status`` is its execution's status now, None when the lease was lost."""
    series = _programs[program]
    series.outcomes[outcome(status, error)].inc()
    series.duration.observe(seconds)
    if error is not None:
        _codes[error.code].inc()


def outcome(status: Status | None, error: DspexError | None) -> str:
    """How an attempt ended: one of OUTCOMES."""
    if status is None:
        return "discarded"
    if status is not Status.QUEUED:
        return status.value
    if error is None:
        return "handed_back"
    return "deferred" if isinstance(error, Deferred) else "retried"


def lm_call_ended(call: LMCall) -> None:
    """Count a model call that was answered."""
    series = _models[call.model]
    series.outcomes["ok"].inc()
    if call.duration_ms:  # through a batch API: how long it took is not known
        series.duration.observe(call.duration_ms / 1000)
    series.prompt_tokens.inc(call.prompt_tokens)
    series.completion_tokens.inc(call.completion_tokens)
    if call.cost_usd is None:
        series.unpriced.inc()
    else:
        series.cost_usd.inc(call.cost_usd)
    if call.cost_usd is not None and call.list_cost_usd is not None:
        series.saved_usd.inc(max(call.list_cost_usd - call.cost_usd, 0.0))


def lm_call_failed(model: str, seconds: float, code: str) -> None:
    """Count a model call that failed."""
    series = _models[model]
    series.outcomes[code].inc()
    series.duration.observe(seconds)


def lm_call_replayed(model: str) -> None:
    """Count a model call that was answered from the journal."""
    _models[model].replayed.inc()


def answer_repaired(kind: str, model: str) -> None:
    """Count a repair of an answer whose outputs are used."""
    _models[model].repairs[kind].inc()
