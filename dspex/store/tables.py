"""The tables for SQLAlchemy. The migrations create them; a test compares the two.

All live in the schema ``dspex``, so that they can share a database with the application that submits.
``executions``, ``lm_calls`` and ``audit_events`` grow without bound and are partitioned by the execution's
UUIDv7, which carries its time of creation (see partitions.py).

Inputs and results are ``json``, not ``jsonb``: jsonb cannot hold U+0000 and reorders keys, and a user's text is
never altered.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Computed,
    Date,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, UUID

SCHEMA = "dspex"
metadata = MetaData(schema=SCHEMA)

_now = text("clock_timestamp()")


def _at(name: str, *, nullable: bool = True, default: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable, server_default=_now if default else None)


programs = Table(
    "programs",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", Text, nullable=False),
    _at("paused_at"),
    Column("paused_reason", Text),
    # The limits that are kept here, of the current version (dispatch.py, budgets.py).
    Column("concurrency", Integer),
    Column("per_minute", Integer),
    Column("max_cost_usd", Double),
    _at("deployed_at", nullable=False, default=True),
    # The rollout under way, and the version that a share of new submits goes to (rollouts.py).
    Column("rollout_id", UUID(as_uuid=True)),
    Column("rollout_version", Text),
)

program_versions = Table(
    "program_versions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("content", JSON, nullable=False),
    _at("created_at", nullable=False, default=True),
    Column("note", Text),
    # A state that an optimiser tried, and that was not deployed otherwise.
    Column("candidate", Boolean, nullable=False, server_default=text("false")),
)

#: Names of versions, such as ``champion``.
program_aliases = Table(
    "program_aliases",
    metadata,
    Column("program", Text, primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("version", Text, nullable=False),
    _at("set_at", nullable=False, default=True),
)

#: Shares of new submits that go, or went, to a version which is not the current one, and why they ended. ``tripped`` is
#: the part of the guard that ended it.
rollouts = Table(
    "rollouts",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("program", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("percent", Double, nullable=False),
    Column("guard", JSON, nullable=False),
    _at("begun_at", nullable=False, default=True),
    _at("ended_at"),
    Column("reason", Text),
    Column("tripped", Text),
    Index("rollouts_program", "program", "id"),
)

#: What was done to a program by operators, clients, guards and budgets, in order of time (program_changes.py). ``by``
#: is NULL where a client did not say.
program_changes = Table(
    "program_changes",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("program", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("version", Text),
    Column("about", Text),
    Column("by", Text),
    _at("at", nullable=False, default=True),
    Index("program_changes_program", "program", "id"),
)

executions = Table(
    "executions",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("program", Text, nullable=False),
    Column("version", Text, nullable=False),
    # Whose it is: given by the key that submitted it over HTTP, or by the producer.
    Column("tenant", Text),
    Column("status", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    # Attempts since its last wait that ended with the death of their worker. From two on it runs alone, as a suspect.
    Column("lost_attempts", SmallInteger, nullable=False, server_default=text("0")),
    Column("timeout_seconds", Double, nullable=False),
    Column("worker_id", UUID(as_uuid=True)),
    Column("batch_id", UUID(as_uuid=True)),
    Column("batch_index", BigInteger),
    _at("created_at", nullable=False),
    _at("run_at", nullable=False),
    _at("dispatched_at"),
    # Held back by the pump: no live worker can run its version.
    _at("held_at"),
    _at("started_at"),
    # When the current attempt must end; set by the claim.
    _at("deadline_at"),
    # A cancel was requested: it never runs again, and its worker ends it.
    _at("cancel_requested_at"),
    # Parked: for a provider's batch, an approval or a child; and when it fails although it waits, if its timeout goes
    # on while it does (parked.py).
    Column("waiting_for", Text),
    _at("waiting_since"),
    _at("expires_at"),
    # The execution whose program made this one, and how many there are above it.
    Column("parent_id", UUID(as_uuid=True)),
    Column("depth", SmallInteger, nullable=False, server_default=text("0")),
    # How its model calls are made, where it is not as the program says (dspex/program/calls/routes.py).
    Column("route", Text),
    # For a row of a batch: the execution with equal inputs whose outputs it takes over (submit/dedup.py).
    Column("same_as", UUID(as_uuid=True)),
    _at("finished_at"),
    Column("audit_seq", Integer, nullable=False),
    Column("audit_hash", LargeBinary, nullable=False),
    Column("adapter_used", Text),
    Column("inputs", JSON, nullable=False),
    Column("result", JSON),
    Column("error", JSON),
    Column("metrics", JSON),
    Column("cost_usd", Double, Computed("(metrics ->> 'cost_usd')::double precision", persisted=True)),
    # Whether a part of its cost is unknown: the price of a call, or what an attempt did that died with its worker.
    Column(
        "unpriced",
        Boolean,
        Computed(
            "coalesce((metrics ->> 'unpriced_lm_calls')::integer > 0, "
            "(metrics ->> 'cost_usd') IS NULL AND started_at IS NOT NULL)",
            persisted=True,
        ),
    ),
    Column("metadata", JSON),
    Column("action_results", JSON),
    # Submitted to be streamed: the model's text goes through Redis for a short while.
    Column("stream", Boolean, nullable=False, server_default=text("false")),
    # The trace it was submitted in, as a W3C traceparent; executions of a batch share their group's.
    Column("traceparent", Text),
    # What is done with it besides running the program: its outputs are scored, or it replays another one
    # (dspex/program/improvement/purpose.py). NULL for most.
    Column("purpose", JSON),
    # Due executions by program, in the order of dispatch; small however many executions are finished.
    Index(
        "executions_due",
        "program",
        "priority",
        "run_at",
        postgresql_where=text("status = 'queued' AND dispatched_at IS NULL AND held_at IS NULL"),
    ),
    # Due executions that have a tenant, by tenant: tenants of a program take turns.
    Index(
        "executions_due_tenant",
        "program",
        "priority",
        "tenant",
        "run_at",
        postgresql_where=text("status = 'queued' AND dispatched_at IS NULL AND held_at IS NULL AND tenant IS NOT NULL"),
    ),
    Index("executions_held", "program", "version", postgresql_where=text("status = 'queued' AND held_at IS NOT NULL")),
    # Dispatched but not yet claimed: the pump's window.
    Index(
        "executions_dispatched",
        "program",
        "dispatched_at",
        postgresql_where=text("status = 'queued' AND dispatched_at IS NOT NULL"),
    ),
    # Suspects that have not ended: the pump's leader counts them in each round.
    Index(
        "executions_suspects",
        "priority",
        "run_at",
        postgresql_where=text("lost_attempts >= 2 AND finished_at IS NULL"),
    ),
    # The executions of each worker: the reaper reads it.
    Index("executions_running", "worker_id", postgresql_where=text("status = 'running'")),
    # The executions that a worker has to end: each worker reads it every second.
    Index(
        "executions_cancelling",
        "worker_id",
        postgresql_where=text("status = 'running' AND cancel_requested_at IS NOT NULL"),
    ),
    # Parked executions by reason, and those that time out meanwhile.
    Index("executions_waiting", "waiting_for", "waiting_since", "id", postgresql_where=text("status = 'waiting'")),
    Index(
        "executions_expiring",
        "expires_at",
        postgresql_where=text("status = 'waiting' AND expires_at IS NOT NULL"),
    ),
    # The children of an execution; those under way are found without reading the others.
    Index("executions_children", "parent_id", "finished_at", postgresql_where=text("parent_id IS NOT NULL")),
    Index("executions_failed", "id", postgresql_where=text("status = 'failed'")),
    Index("executions_program", "program", "id"),
    Index("executions_tenant", "tenant", "id", postgresql_where=text("tenant IS NOT NULL")),
    # What a tenant's executions cost, for its budget.
    Index(
        "executions_tenant_finished",
        "tenant",
        "finished_at",
        postgresql_include=["cost_usd"],
        postgresql_where=text("tenant IS NOT NULL AND finished_at IS NOT NULL"),
    ),
    # Executions that ended lately: alerts and reports read it.
    Index("executions_finished", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
    # A batch's executions by row, with the columns that its progress needs.
    Index(
        "executions_batch",
        "batch_id",
        "batch_index",
        postgresql_include=["status", "finished_at", "cost_usd", "unpriced", "waiting_for"],
        postgresql_where=text("batch_id IS NOT NULL"),
    ),
    # The first execution of each evaluation, and the executions of each optimisation.
    Index(
        "executions_evaluations",
        "batch_id",
        postgresql_where=text("batch_index = 0 AND purpose ->> 'metric' IS NOT NULL"),
    ),
    Index("executions_jobs", text("(purpose ->> 'job')"), "id", postgresql_where=text("purpose ->> 'job' IS NOT NULL")),
    postgresql_partition_by="RANGE (id)",
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("program", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("execution_id", UUID(as_uuid=True), nullable=False),
    Column("inputs_hash", LargeBinary, nullable=False),
    _at("created_at", nullable=False, default=True),
    # Keys go with their executions (retention.py).
    Index("idempotency_keys_execution", "execution_id"),
)

#: Judgements of final executions, appended by users; the audit trail has the hash of each ``content``, which has the
#: corrected outputs and the note, and is sealed where the execution is (feedback_entries.py).
feedback = Table(
    "feedback",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("execution_id", UUID(as_uuid=True), nullable=False),
    _at("at", nullable=False, default=True),
    Column("score", Double),
    # It has corrected outputs.
    Column("corrected", Boolean, nullable=False),
    Column("content", JSON, nullable=False),
    Column("author", Text),
    Index("feedback_execution", "execution_id"),
)

#: Datasets: the same rows are the same version. ``inputs`` and ``labels`` are the names of the columns.
datasets = Table(
    "datasets",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("inputs", ARRAY(Text), nullable=False),
    Column("labels", ARRAY(Text), nullable=False),
    Column("size", BigInteger, nullable=False),
    # The content of each row is sealed.
    Column("sealed", Boolean, nullable=False, server_default=text("false")),
    _at("created_at", nullable=False, default=True),
    UniqueConstraint("name", "version"),
)

dataset_rows = Table(
    "dataset_rows",
    metadata,
    Column("dataset_id", UUID(as_uuid=True), primary_key=True),
    Column("index", BigInteger, primary_key=True),
    Column("content", JSON, nullable=False),
)

#: When executions of programs with a limit per minute began; rows older than a minute are deleted (dispatch.py).
program_starts = Table(
    "program_starts",
    metadata,
    Column("program", Text, nullable=False),
    _at("at", nullable=False),
    Column("count", Integer, nullable=False),
    Index("program_starts_at", "program", "at"),
)

#: What programs with a budget have spent, and what their current calls may cost (budgets.py). An evaluation with a
#: budget has a row of its own, whose name no program can have, with its limit.
budgets = Table(
    "budgets",
    metadata,
    Column("program", Text, primary_key=True),
    Column("spent_usd", Numeric, nullable=False, server_default=text("0")),
    Column("reserved_usd", Numeric, nullable=False, server_default=text("0")),
    Column("limit_usd", Numeric),
)

#: A current model call and what it may cost; ``worker_id`` is the worker that makes it, ``execution_id`` the execution
#: that waits for it, if no worker makes it.
budget_reservations = Table(
    "budget_reservations",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("program", Text, nullable=False),
    Column("worker_id", UUID(as_uuid=True), nullable=False),
    Column("usd", Numeric, nullable=False),
    Column("execution_id", UUID(as_uuid=True)),
    # The calls that workers make, however many executions wait.
    Index("budget_reservations_worker", "worker_id", postgresql_where=text("execution_id IS NULL")),
)

#: The keys of `dspex keys`: what a request over HTTP may do. Only the hash of a key is stored (api_keys.py).
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    # The programs that it may use; NULL: all.
    Column("programs", ARRAY(Text)),
    Column("tenant", Text),
    Column("per_minute", Integer),
    # What executions of its tenant may cost in a calendar month.
    Column("budget_usd", Double),
    _at("created_at", nullable=False, default=True),
    _at("expires_at"),
    _at("revoked_at"),
    Index("api_keys_hash", "hash", unique=True),
    Index("api_keys_name", "name", unique=True, postgresql_where=text("revoked_at IS NULL")),
)

lm_calls = Table(
    "lm_calls",
    metadata,
    Column("execution_id", UUID(as_uuid=True), primary_key=True),
    Column("request_hash", LargeBinary, primary_key=True),
    Column("occurrence", Integer, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("model", Text, nullable=False),
    Column("response", JSON, nullable=False),
    # What was asked, of programs with record="full"; retention may remove it sooner than the answer.
    Column("request", JSON),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("cost_usd", Numeric),
    # What an ordinary call would have cost, where this one went through a batch API.
    Column("list_cost_usd", Numeric),
    Column("duration_ms", Double, nullable=False),
    Column("request_id", Text),
    # The answer was rejected: it is never replayed.
    Column("rejected", Boolean, nullable=False, server_default=text("false")),
    _at("created_at", nullable=False, default=True),
    Index("lm_calls_requests", "created_at", postgresql_where=text("request IS NOT NULL")),
    postgresql_partition_by="RANGE (execution_id)",
)

#: The calls that parked executions wait for (lifecycle/parked.py). ``target`` names the model and where it is asked,
#: ``request`` is what is asked or decided about, sealed where values are. ``attempt`` is the last attempt that was
#: parked for it; ``error`` is raised in the attempt ``error_attempt``.
parked_calls = Table(
    "parked_calls",
    metadata,
    Column("execution_id", UUID(as_uuid=True), primary_key=True),
    Column("request_hash", LargeBinary, primary_key=True),
    Column("occurrence", Integer, primary_key=True),
    Column("attempt", Integer, nullable=False),
    # batch, approval or child.
    Column("kind", Text, nullable=False),
    # The model, the tool or the program.
    Column("subject", Text, nullable=False),
    Column("target", Text),
    Column("request", JSON),
    Column("child_id", UUID(as_uuid=True)),
    Column("bundle_id", UUID(as_uuid=True)),
    _at("parked_at", nullable=False),
    _at("expires_at"),
    Column("error", JSON),
    Column("error_attempt", Integer),
    # Of an approval: who decided what, and when.
    Column("decision", JSON),
    Index(
        "parked_calls_unbundled",
        "target",
        "parked_at",
        postgresql_where=text("kind = 'batch' AND bundle_id IS NULL AND error IS NULL"),
    ),
    Index(
        "parked_calls_bundle",
        "bundle_id",
        "execution_id",
        "request_hash",
        "occurrence",
        postgresql_where=text("bundle_id IS NOT NULL"),
    ),
    Index("parked_calls_approvals", "parked_at", postgresql_where=text("kind = 'approval' AND decision IS NULL")),
    Index("parked_calls_children", "child_id", postgresql_where=text("kind = 'child'")),
    # A request in a bundle is late with its bundle.
    Index(
        "parked_calls_expiring",
        "kind",
        "expires_at",
        postgresql_where=text("expires_at IS NOT NULL AND error IS NULL AND decision IS NULL AND bundle_id IS NULL"),
    ),
)

#: Bundles of requests at a provider's batch API (lifecycle/bundles.py). A state names what was done last; ``creating``
#: is the intention, stored before the request that creates the batch and costs money.
bundles = Table(
    "bundles",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("target", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("requests", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("file_id", Text),
    # The provider's id of the batch, and its own word for the state.
    Column("provider_id", Text),
    Column("provider_state", Text),
    Column("answered", Integer, nullable=False, server_default=text("0")),
    Column("failed", Integer, nullable=False, server_default=text("0")),
    Column("cost_usd", Numeric, nullable=False, server_default=text("0")),
    Column("list_cost_usd", Numeric, nullable=False, server_default=text("0")),
    _at("created_at", nullable=False, default=True),
    _at("intended_at"),
    # When the leader looks at it again, and how often it has looked since the last change.
    _at("next_at", nullable=False, default=True),
    Column("looks", Integer, nullable=False, server_default=text("0")),
    # How often its results were read and were not complete.
    Column("reads", Integer, nullable=False, server_default=text("0")),
    _at("expires_at"),
    _at("cancel_requested_at"),
    _at("ended_at"),
    # Why the last step failed.
    Column("trouble", Text),
    Index("bundles_open", "next_at", postgresql_where=text("state <> 'ended'")),
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("execution_id", UUID(as_uuid=True), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("attempt", Integer, nullable=False),
    _at("at", nullable=False),
    # The hashes of the values that the transition stored, if it stored any (audit_chain.py).
    Column("submission_hash", LargeBinary),
    Column("outcome_hash", LargeBinary),
    Column("events", JSON, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    postgresql_partition_by="RANGE (execution_id)",
)

workers = Table(
    "workers",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("running", Integer, nullable=False),
    Column("lease_seconds", Double, nullable=False),
    # What keeps it from working, such as the place where its loop is blocked, or lost threads.
    Column("trouble", Text),
    # The versions of programs that it cannot run, and why (workers.py).
    Column("unrunnable", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    # The packages from which it loads users' code.
    Column("program_packages", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    # The release of DSPy that is installed there.
    Column("dspy", Text),
    # What runs the code that models write: "deno", a reference to a factory, or nothing.
    Column("code_interpreter", Text),
    # The functions that load what is heavy, each with its time and memory.
    Column("setups", JSON, nullable=False, server_default=text("'[]'")),
    # The memory of its process, and the share of a core that it used since the last heartbeat.
    Column("memory_bytes", BigInteger),
    Column("cpu", Double),
    _at("started_at", nullable=False),
    _at("heartbeat_at", nullable=False),
    _at("stopped_at"),
    Index("workers_live", "heartbeat_at", postgresql_where=text("stopped_at IS NULL")),
)

#: What is submitted again and again (schedules.py): ``next_at`` is NULL when no time is left.
schedules = Table(
    "schedules",
    metadata,
    Column("name", Text, primary_key=True),
    Column("program", Text, nullable=False),
    Column("inputs", JSON, nullable=False),
    Column("cron", Text, nullable=False),
    Column("timezone", Text, nullable=False),
    Column("missed", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("metadata", JSON),
    Column("tenant", Text),
    _at("next_at"),
    _at("last_at"),
    Column("last_execution_id", UUID(as_uuid=True)),
    Column("error", Text),
    Index("schedules_due", "next_at"),
)

#: Outcomes that are posted to an address: a row for each execution, or batch, that was submitted with one.
webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("execution_id", UUID(as_uuid=True)),
    Column("batch_id", UUID(as_uuid=True)),
    # Of a batch: its program, rows, how many of them are stored, and tenant.
    Column("content", JSON),
    # Of a batch: all rows before this one are over.
    Column("over_before", BigInteger, nullable=False, server_default=text("0")),
    Column("url", Text, nullable=False),
    _at("created_at", nullable=False, default=True),
    # When it is looked at next: whether the execution, or the batch, is over, or whether the address accepts it now.
    _at("next_at", nullable=False, default=True),
    # When it was first sent, in vain or not: it is given up a day later.
    _at("first_at"),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    _at("claimed_until"),
    _at("delivered_at"),
    # It was given up.
    _at("dead_at"),
    Column("error", Text),
    Index("webhook_deliveries_open", "next_at", postgresql_where=text("delivered_at IS NULL AND dead_at IS NULL")),
    Index("webhook_deliveries_execution", "execution_id"),
    Index("webhook_deliveries_batch", "batch_id", unique=True),
)

#: Messages from the queue that were not DSPex's: how many on a day, by reason; nothing of their content.
refused_messages = Table(
    "refused_messages",
    metadata,
    Column("day", Date, primary_key=True),
    Column("reason", Text, primary_key=True),
    Column("count", BigInteger, nullable=False),
    _at("first_at", nullable=False),
    _at("last_at", nullable=False),
    Column("last_worker_id", UUID(as_uuid=True), nullable=False),
)

#: Which worker leads a duty that only one may have at a time: a row, not an advisory lock, so that a leader that
#: is stopped or cut off loses it when the lease ends (docs/decisions/0004).
leaderships = Table(
    "leaderships",
    metadata,
    Column("duty", Text, primary_key=True),
    Column("worker_id", UUID(as_uuid=True), nullable=False),
    _at("expires_at", nullable=False),
    # What the leader cannot do (workers/process/leader/duties.py); NULL when there is nothing.
    Column("trouble", JSON),
)

health_checks = Table(
    "health_checks",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    _at("at", nullable=False, default=True),
    # healthy, degraded or unhealthy; and the whole report (dspex/operations/health/conditions.py).
    Column("overall", Text, nullable=False),
    Column("worker_id", UUID(as_uuid=True)),
    Column("report", JSON, nullable=False),
    Index("health_checks_at", "at"),
)

#: Figures above their threshold: pending at first, firing once that lasts, then resolved (operations/alerts.py).
alerts = Table(
    "alerts",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("rule", Text, nullable=False),
    # A program, a worker or a component; empty for the deployment.
    Column("subject", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("value", Double, nullable=False),
    Column("threshold", Double, nullable=False),
    Column("summary", Text, nullable=False),
    _at("since", nullable=False),
    # When it was last above its threshold.
    _at("seen_at", nullable=False),
    _at("fired_at"),
    _at("notified_at"),
    _at("resolved_at"),
    Index("alerts_open", "rule", "subject", unique=True, postgresql_where=text("state <> 'resolved'")),
    Index("alerts_fired", "fired_at"),
)

#: The notifications of each channel, delivered or not.
alert_deliveries = Table(
    "alert_deliveries",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("alert_id", BigInteger, nullable=False),
    # firing, reminder or resolved, with the value and the summary at that time.
    Column("event", Text, nullable=False),
    Column("value", Double, nullable=False),
    Column("summary", Text, nullable=False),
    Column("channel", Text, nullable=False),
    _at("created_at", nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    _at("next_at", nullable=False),
    # A process is delivering it.
    _at("claimed_until"),
    _at("delivered_at"),
    Column("error", Text),
    Index("alert_deliveries_due", "channel", "id", postgresql_where=text("delivered_at IS NULL")),
    Index("alert_deliveries_alert", "alert_id"),
)

#: The periods that the partitioned tables are divided into (partitions.py), and how far retention is with each:
#: ``retired_at`` its executions and model calls are detached, ``audit_retired_at`` its audit entries as well.
#: ``executions`` is how many were retired; ``digest`` covers the ends of their trails (audit_chain.Digest).
periods = Table(
    "periods",
    metadata,
    Column("name", Text, primary_key=True),
    Column("low", UUID(as_uuid=True), nullable=False),
    Column("high", UUID(as_uuid=True), nullable=False),
    _at("made_at", nullable=False, default=True),
    _at("retired_at"),
    Column("executions", BigInteger),
    Column("digest", LargeBinary),
    Column("audit_export", Text),
    _at("audit_retired_at"),
)

#: The backups that `dspex backup` made or tried to make; ``error`` is why one is not ``ok``.
backups = Table(
    "backups",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    _at("at", nullable=False, default=True),
    Column("ok", Boolean, nullable=False),
    Column("host", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("bytes", BigInteger),
    Column("sha256", Text),
    Column("error", Text),
)
