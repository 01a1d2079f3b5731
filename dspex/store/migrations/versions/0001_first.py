"""The first schema: programs, executions, their model calls and their audit trail, workers, health."""

from alembic import op

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE dspex.programs (
    name text PRIMARY KEY CHECK (name ~ '^[A-Za-z_][A-Za-z0-9_.-]{0,99}$'),
    version text NOT NULL,
    paused_at timestamptz,
    paused_reason text,
    concurrency integer,
    per_minute integer,
    max_cost_usd double precision,
    deployed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    rollout_id uuid,
    rollout_version text
);

CREATE TABLE dspex.program_versions (
    name text NOT NULL,
    version text NOT NULL,
    content json NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    note text,
    PRIMARY KEY (name, version)
);

CREATE TABLE dspex.program_aliases (
    program text NOT NULL,
    alias text NOT NULL,
    version text NOT NULL,
    set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (program, alias)
);

CREATE TABLE dspex.rollouts (
    id uuid PRIMARY KEY,
    program text NOT NULL,
    version text NOT NULL,
    percent double precision NOT NULL CHECK (percent > 0 AND percent <= 100),
    guard json NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    reason text,
    tripped text
);
CREATE INDEX rollouts_program ON dspex.rollouts (program, id);

CREATE TABLE dspex.executions (
    id uuid PRIMARY KEY,
    program text NOT NULL,
    version text NOT NULL,
    tenant text CHECK (tenant ~ '^[A-Za-z0-9_.-]{1,64}$'),
    status text NOT NULL CHECK (status IN ('queued', 'running', 'waiting', 'completed', 'failed', 'cancelled')),
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 9),
    attempt integer NOT NULL,
    max_attempts integer NOT NULL,
    lost_attempts smallint NOT NULL DEFAULT 0,
    timeout_seconds double precision NOT NULL,
    worker_id uuid,
    batch_id uuid,
    batch_index bigint,
    created_at timestamptz NOT NULL,
    run_at timestamptz NOT NULL,
    dispatched_at timestamptz,
    held_at timestamptz,
    started_at timestamptz,
    deadline_at timestamptz,
    cancel_requested_at timestamptz,
    waiting_for text CHECK (waiting_for IN ('batch', 'approval', 'child')),
    waiting_since timestamptz,
    expires_at timestamptz,
    parent_id uuid,
    depth smallint NOT NULL DEFAULT 0,
    route text,
    same_as uuid,
    finished_at timestamptz,
    audit_seq integer NOT NULL,
    audit_hash bytea NOT NULL,
    adapter_used text,
    inputs json NOT NULL,
    result json,
    error json,
    metrics json,
    cost_usd double precision GENERATED ALWAYS AS ((metrics ->> 'cost_usd')::double precision) STORED,
    unpriced boolean GENERATED ALWAYS AS (coalesce((metrics ->> 'unpriced_lm_calls')::integer > 0,
        (metrics ->> 'cost_usd') IS NULL AND started_at IS NOT NULL)) STORED,
    metadata json,
    action_results json,
    stream boolean NOT NULL DEFAULT false,
    traceparent text,
    purpose json,
    CHECK ((status = 'running') = (worker_id IS NOT NULL)),
    CHECK ((status = 'waiting') = (waiting_for IS NOT NULL) AND (waiting_for IS NULL) = (waiting_since IS NULL)),
    CHECK ((status IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CHECK (status <> 'queued' OR cancel_requested_at IS NULL),
    -- Values that no worker can read or compute with.
    CHECK (attempt BETWEEN 0 AND 1000000 AND max_attempts BETWEEN 0 AND 1000000),
    CHECK (timeout_seconds > 0 AND timeout_seconds <= 86400),
    CHECK (created_at > '0001-01-02Z' AND created_at < '9999-12-31Z'),
    CHECK (run_at > '0001-01-02Z' AND run_at < '9999-12-31Z')
) PARTITION BY RANGE (id);

CREATE INDEX executions_due ON dspex.executions (program, priority, run_at)
    WHERE status = 'queued' AND dispatched_at IS NULL AND held_at IS NULL;
CREATE INDEX executions_due_tenant ON dspex.executions (program, priority, tenant, run_at)
    WHERE status = 'queued' AND dispatched_at IS NULL AND held_at IS NULL AND tenant IS NOT NULL;
CREATE INDEX executions_held ON dspex.executions (program, version) WHERE status = 'queued' AND held_at IS NOT NULL;
CREATE INDEX executions_dispatched ON dspex.executions (program, dispatched_at)
    WHERE status = 'queued' AND dispatched_at IS NOT NULL;
CREATE INDEX executions_suspects ON dspex.executions (priority, run_at)
    WHERE lost_attempts >= 2 AND finished_at IS NULL;
CREATE INDEX executions_running ON dspex.executions (worker_id) WHERE status = 'running';
CREATE INDEX executions_cancelling ON dspex.executions (worker_id)
    WHERE status = 'running' AND cancel_requested_at IS NOT NULL;
CREATE INDEX executions_waiting ON dspex.executions (waiting_for, waiting_since) WHERE status = 'waiting';
CREATE INDEX executions_expiring ON dspex.executions (expires_at) WHERE status = 'waiting' AND expires_at IS NOT NULL;
CREATE INDEX executions_children ON dspex.executions (parent_id, id) WHERE parent_id IS NOT NULL;
CREATE INDEX executions_failed ON dspex.executions (id) WHERE status = 'failed';
CREATE INDEX executions_program ON dspex.executions (program, id);
CREATE INDEX executions_tenant ON dspex.executions (tenant, id) WHERE tenant IS NOT NULL;
CREATE INDEX executions_tenant_finished ON dspex.executions (tenant, finished_at) INCLUDE (cost_usd)
    WHERE tenant IS NOT NULL AND finished_at IS NOT NULL;
CREATE INDEX executions_finished ON dspex.executions (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX executions_batch ON dspex.executions (batch_id, batch_index)
    INCLUDE (status, finished_at, cost_usd, unpriced) WHERE batch_id IS NOT NULL;

CREATE TABLE dspex.idempotency_keys (
    program text NOT NULL,
    key text NOT NULL,
    execution_id uuid NOT NULL,
    inputs_hash bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (program, key)
);
CREATE INDEX idempotency_keys_execution ON dspex.idempotency_keys (execution_id);

CREATE TABLE dspex.feedback (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    execution_id uuid NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    score double precision,
    corrected boolean NOT NULL,
    content json NOT NULL,
    author text
);
CREATE INDEX feedback_execution ON dspex.feedback (execution_id);

CREATE TABLE dspex.datasets (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    version text NOT NULL,
    inputs text[] NOT NULL,
    labels text[] NOT NULL,
    size bigint NOT NULL,
    sealed boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (name, version)
);

CREATE TABLE dspex.dataset_rows (
    dataset_id uuid NOT NULL,
    index bigint NOT NULL,
    content json NOT NULL,
    PRIMARY KEY (dataset_id, index)
);

CREATE TABLE dspex.program_starts (
    program text NOT NULL,
    at timestamptz NOT NULL,
    count integer NOT NULL
);
CREATE INDEX program_starts_at ON dspex.program_starts (program, at);

CREATE TABLE dspex.budgets (
    program text PRIMARY KEY,
    spent_usd numeric NOT NULL DEFAULT 0,
    reserved_usd numeric NOT NULL DEFAULT 0,
    limit_usd numeric
);

CREATE TABLE dspex.budget_reservations (
    id uuid PRIMARY KEY,
    program text NOT NULL,
    worker_id uuid NOT NULL,
    usd numeric NOT NULL
);

CREATE TABLE dspex.api_keys (
    id uuid PRIMARY KEY,
    name text NOT NULL CHECK (name ~ '^[A-Za-z0-9_.-]{1,64}$'),
    hash bytea NOT NULL,
    scopes text[] NOT NULL,
    programs text[],
    tenant text CHECK (tenant ~ '^[A-Za-z0-9_.-]{1,64}$'),
    per_minute integer CHECK (per_minute > 0),
    budget_usd double precision CHECK (budget_usd > 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz,
    CHECK (budget_usd IS NULL OR tenant IS NOT NULL)
);
CREATE UNIQUE INDEX api_keys_hash ON dspex.api_keys (hash);
CREATE UNIQUE INDEX api_keys_name ON dspex.api_keys (name) WHERE revoked_at IS NULL;

CREATE TABLE dspex.lm_calls (
    execution_id uuid NOT NULL,
    request_hash bytea NOT NULL,
    occurrence integer NOT NULL,
    attempt integer NOT NULL,
    model text NOT NULL,
    response json NOT NULL,
    request json,
    prompt_tokens integer NOT NULL,
    completion_tokens integer NOT NULL,
    cost_usd numeric,
    list_cost_usd numeric,
    duration_ms double precision NOT NULL,
    request_id text,
    rejected boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (execution_id, request_hash, occurrence, attempt)
) PARTITION BY RANGE (execution_id);

CREATE INDEX lm_calls_requests ON dspex.lm_calls (created_at) WHERE request IS NOT NULL;

-- The calls that parked executions wait for: requests for a provider's batch API, approvals, child executions. A row
-- goes when its answer is written to lm_calls.
CREATE TABLE dspex.parked_calls (
    execution_id uuid NOT NULL,
    request_hash bytea NOT NULL,
    occurrence integer NOT NULL,
    attempt integer NOT NULL,
    kind text NOT NULL CHECK (kind IN ('batch', 'approval', 'child')),
    subject text NOT NULL,
    target text,
    request json,
    child_id uuid,
    bundle_id uuid,
    parked_at timestamptz NOT NULL,
    expires_at timestamptz,
    error json,
    error_attempt integer,
    decision json,
    PRIMARY KEY (execution_id, request_hash, occurrence),
    CHECK ((kind = 'child') = (child_id IS NOT NULL)),
    CHECK ((kind = 'batch') = (target IS NOT NULL)),
    CHECK ((error IS NULL) = (error_attempt IS NULL))
);
CREATE INDEX parked_calls_unbundled ON dspex.parked_calls (target, parked_at)
    WHERE kind = 'batch' AND bundle_id IS NULL AND error IS NULL;
CREATE INDEX parked_calls_bundle ON dspex.parked_calls (bundle_id, execution_id, request_hash, occurrence)
    WHERE bundle_id IS NOT NULL;
CREATE INDEX parked_calls_approvals ON dspex.parked_calls (parked_at) WHERE kind = 'approval' AND decision IS NULL;
CREATE INDEX parked_calls_children ON dspex.parked_calls (child_id) WHERE kind = 'child';
CREATE INDEX parked_calls_expiring ON dspex.parked_calls (expires_at)
    WHERE expires_at IS NOT NULL AND error IS NULL AND decision IS NULL;

-- The bundles of requests at providers' batch APIs. Which requests are in one never changes.
CREATE TABLE dspex.bundles (
    id uuid PRIMARY KEY,
    target text NOT NULL,
    state text NOT NULL CHECK (state IN ('created', 'uploaded', 'creating', 'running', 'ended')),
    requests integer NOT NULL,
    bytes bigint NOT NULL,
    file_id text,
    provider_id text,
    provider_state text,
    answered integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    cost_usd numeric NOT NULL DEFAULT 0,
    list_cost_usd numeric NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    intended_at timestamptz,
    next_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    looks integer NOT NULL DEFAULT 0,
    reads integer NOT NULL DEFAULT 0,
    expires_at timestamptz,
    cancel_requested_at timestamptz,
    ended_at timestamptz,
    trouble text,
    CHECK ((state = 'ended') = (ended_at IS NOT NULL))
);
CREATE INDEX bundles_open ON dspex.bundles (next_at) WHERE state <> 'ended';

CREATE TABLE dspex.audit_events (
    execution_id uuid NOT NULL,
    seq integer NOT NULL,
    attempt integer NOT NULL,
    at timestamptz NOT NULL,
    submission_hash bytea,
    outcome_hash bytea,
    events json NOT NULL,
    hash bytea NOT NULL,
    PRIMARY KEY (execution_id, seq)
) PARTITION BY RANGE (execution_id);

CREATE TABLE dspex.workers (
    id uuid PRIMARY KEY,
    host text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    state text NOT NULL,
    concurrency integer NOT NULL,
    running integer NOT NULL,
    lease_seconds double precision NOT NULL,
    trouble text,
    unrunnable text[] NOT NULL DEFAULT '{}',
    program_packages text[] NOT NULL DEFAULT '{}',
    dspy text,
    code_interpreter text,
    setups json NOT NULL DEFAULT '[]',
    memory_bytes bigint,
    cpu double precision,
    started_at timestamptz NOT NULL,
    heartbeat_at timestamptz NOT NULL,
    stopped_at timestamptz
);
CREATE INDEX workers_live ON dspex.workers (heartbeat_at) WHERE stopped_at IS NULL;

CREATE TABLE dspex.schedules (
    name text PRIMARY KEY,
    program text NOT NULL,
    inputs json NOT NULL,
    cron text NOT NULL,
    timezone text NOT NULL,
    missed text NOT NULL CHECK (missed IN ('run_once', 'skip')),
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 9),
    metadata json,
    tenant text,
    next_at timestamptz,
    last_at timestamptz,
    last_execution_id uuid,
    error text
);
CREATE INDEX schedules_due ON dspex.schedules (next_at);

CREATE TABLE dspex.webhook_deliveries (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    execution_id uuid,
    batch_id uuid,
    content json,
    over_before bigint NOT NULL DEFAULT 0,
    url text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    next_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    first_at timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    claimed_until timestamptz,
    delivered_at timestamptz,
    dead_at timestamptz,
    error text,
    CHECK (num_nonnulls(execution_id, batch_id) = 1)
);
CREATE INDEX webhook_deliveries_open ON dspex.webhook_deliveries (next_at)
    WHERE delivered_at IS NULL AND dead_at IS NULL;
CREATE INDEX webhook_deliveries_execution ON dspex.webhook_deliveries (execution_id);
CREATE UNIQUE INDEX webhook_deliveries_batch ON dspex.webhook_deliveries (batch_id);

CREATE TABLE dspex.refused_messages (
    day date NOT NULL,
    reason text NOT NULL,
    count bigint NOT NULL,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    last_worker_id uuid NOT NULL,
    PRIMARY KEY (day, reason)
);

CREATE TABLE dspex.leaderships (
    duty text PRIMARY KEY,
    worker_id uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    trouble json
);

CREATE TABLE dspex.health_checks (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    overall text NOT NULL,
    worker_id uuid,
    report json NOT NULL
);
CREATE INDEX health_checks_at ON dspex.health_checks (at);

CREATE TABLE dspex.alerts (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    rule text NOT NULL,
    subject text NOT NULL,
    state text NOT NULL CHECK (state IN ('pending', 'firing', 'resolved')),
    value double precision NOT NULL,
    threshold double precision NOT NULL,
    summary text NOT NULL,
    since timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    fired_at timestamptz,
    notified_at timestamptz,
    resolved_at timestamptz,
    CHECK ((state = 'pending') = (fired_at IS NULL)),
    CHECK ((state = 'resolved') = (resolved_at IS NOT NULL))
);
CREATE UNIQUE INDEX alerts_open ON dspex.alerts (rule, subject) WHERE state <> 'resolved';
CREATE INDEX alerts_fired ON dspex.alerts (fired_at);

CREATE TABLE dspex.alert_deliveries (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    alert_id bigint NOT NULL,
    event text NOT NULL CHECK (event IN ('firing', 'reminder', 'resolved')),
    value double precision NOT NULL,
    summary text NOT NULL,
    channel text NOT NULL,
    created_at timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    next_at timestamptz NOT NULL,
    claimed_until timestamptz,
    delivered_at timestamptz,
    error text
);
CREATE INDEX alert_deliveries_due ON dspex.alert_deliveries (channel, id) WHERE delivered_at IS NULL;
CREATE INDEX alert_deliveries_alert ON dspex.alert_deliveries (alert_id);

CREATE TABLE dspex.periods (
    name text PRIMARY KEY,
    low uuid NOT NULL,
    high uuid NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    retired_at timestamptz,
    executions bigint,
    digest bytea,
    audit_export text,
    audit_retired_at timestamptz
);

CREATE TABLE dspex.backups (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ok boolean NOT NULL,
    host text NOT NULL,
    path text NOT NULL,
    bytes bigint,
    sha256 text,
    error text
);
"""

# Rows outside every dated partition (from a producer whose clock is far off) are kept here rather than refused.
DEFAULT_PARTITIONS = """
CREATE TABLE dspex.executions_default PARTITION OF dspex.executions DEFAULT;
CREATE TABLE dspex.lm_calls_default PARTITION OF dspex.lm_calls DEFAULT;
CREATE TABLE dspex.audit_events_default PARTITION OF dspex.audit_events DEFAULT;
"""

AUDIT = """
-- dspex.store.audit_chain computes the same hashes; a test compares them. Values are hashed as the text that is stored.
CREATE FUNCTION dspex.value_hash(value text) RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(sha256(convert_to(value, 'UTF8')), decode(repeat('00', 32), 'hex'));

CREATE FUNCTION dspex.submission_hash(program text, version text, inputs text, metadata text) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
RETURN sha256(dspex.value_hash(program) || dspex.value_hash(version) || dspex.value_hash(inputs)
    || dspex.value_hash(metadata));

CREATE FUNCTION dspex.outcome_hash(result text, error text, metrics text, adapter_used text, action_results text)
RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE
RETURN sha256(dspex.value_hash(result) || dspex.value_hash(error) || dspex.value_hash(metrics)
    || dspex.value_hash(adapter_used) || dspex.value_hash(action_results));

CREATE FUNCTION dspex.audit_hash(
    previous bytea, execution_id uuid, seq integer, attempt integer, at timestamptz, submission_hash bytea,
    outcome_hash bytea, events text
) RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE
RETURN sha256(previous || convert_to(
    execution_id || '|' || seq || '|' || attempt || '|' || (extract(epoch FROM at) * 1000000)::bigint || '|'
        || coalesce(encode(submission_hash, 'hex'), '') || '|' || coalesce(encode(outcome_hash, 'hex'), '') || '|'
        || events, 'UTF8'));

-- An entry is appended by a transition alone: it is the one that its execution's row now ends with. verify() checks
-- that its events belong to the transition: to read them here costs as much as the rest of a settlement. The first
-- entry of a trail is inserted with its execution, and the key lets no trail have two. It is not read here: a trigger
-- with a transition table would make COPY insert rows one by one.
CREATE FUNCTION dspex.check_entry() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM dspex.executions WHERE id = NEW.execution_id
            AND audit_seq = NEW.seq AND audit_hash = NEW.hash AND attempt = NEW.attempt) THEN
        RAISE EXCEPTION 'dspex.audit_events: entry % of execution % does not belong to a transition',
            NEW.seq, NEW.execution_id USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NULL;
END $$;

-- Entries of executions that retention removed may be deleted (RETENTION, below).
CREATE FUNCTION dspex.refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND NOT EXISTS (SELECT FROM dspex.executions WHERE id = OLD.execution_id)
        AND OLD.execution_id < (
            SELECT high FROM dspex.periods WHERE audit_retired_at IS NOT NULL ORDER BY high DESC LIMIT 1) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'dspex.audit_events is append-only: % refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE TRIGGER audit_events_append_only BEFORE UPDATE OR DELETE ON dspex.audit_events
    FOR EACH ROW EXECUTE FUNCTION dspex.refuse_audit_change();
CREATE TRIGGER audit_events_no_truncate BEFORE TRUNCATE ON dspex.audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION dspex.refuse_audit_change();
CREATE TRIGGER audit_events_no_truncate BEFORE TRUNCATE ON dspex.audit_events_default
    FOR EACH STATEMENT EXECUTE FUNCTION dspex.refuse_audit_change();
-- append_entries() needs no check: the numbers and hashes come from the executions themselves. The right TRIGGER is the
-- owner's, so a role that may insert does not pass for this function by its setting.
CREATE TRIGGER audit_events_of_transitions AFTER INSERT ON dspex.audit_events
    FOR EACH ROW WHEN (NEW.seq > 1 AND (current_setting('dspex.appending', true) IS DISTINCT FROM 'on'
        OR NOT has_table_privilege('dspex.audit_events'::regclass, 'TRIGGER')))
    EXECUTE FUNCTION dspex.check_entry();

-- Append to the trails of these executions the entries that their rows end with since the transition that calls it. A
-- trigger for each entry cost twice as much as the rest of its insertion.
CREATE FUNCTION dspex.append_entries(ids uuid[], outcome_hashes bytea[], entries text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    PERFORM set_config('dspex.appending', 'on', true);
    INSERT INTO dspex.audit_events (execution_id, seq, attempt, at, outcome_hash, events, hash)
    SELECT e.id, e.audit_seq, e.attempt, now(), n.outcome_hash, n.entry::json, e.audit_hash
    FROM unnest(ids, outcome_hashes, entries) AS n (id, outcome_hash, entry)
    JOIN dspex.executions e ON e.id = n.id WHERE e.audit_seq > 1;
    PERFORM set_config('dspex.appending', 'off', true);
END $$;

-- Append feedback on a final execution, with an entry of its trail that has a hash of it. The execution does not change
-- otherwise. False when there is no such execution, or it is not final.
CREATE FUNCTION dspex.append_feedback(
    execution uuid, score double precision, corrected boolean, content text, author text
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    entry text := format('[{"kind":"feedback","data":{"score":%s,"by":%s,"content":"%s"}}]',
        coalesce(to_json(score)::text, 'null'), coalesce(to_json(author)::text, 'null'),
        encode(dspex.value_hash(content), 'hex'));
BEGIN
    UPDATE dspex.executions e SET audit_seq = e.audit_seq + 1,
        audit_hash = dspex.audit_hash(e.audit_hash, e.id, e.audit_seq + 1, e.attempt, now(), NULL, NULL, entry)
    WHERE e.id = execution AND e.finished_at IS NOT NULL;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO dspex.feedback (execution_id, at, score, corrected, content, author)
    VALUES (execution, now(), score, corrected, content::json, author);
    PERFORM dspex.append_entries(ARRAY[execution], NULL, ARRAY[entry]);
    RETURN true;
END $$;
"""

# dspex.store.lifecycle.status.TRANSITIONS is the same table; a test tries every pair.
TRANSITIONS = """
CREATE FUNCTION dspex.is_transition(before text, after text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN before || ' ' || after = ANY (ARRAY[
    'queued running', 'queued cancelled',
    'running queued', 'running waiting', 'running completed', 'running failed', 'running cancelled',
    'waiting queued', 'waiting failed', 'waiting cancelled',
    'failed queued', 'cancelled queued']);

-- Without a transition, a final execution does not change, and no trail grows. Only the owner of the table may seal
-- values again with another key, which is recorded by an audit entry of its own.
CREATE FUNCTION dspex.refuse_rewrite() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.status <> NEW.status THEN
        RAISE EXCEPTION 'execution %: % -> % %', OLD.id, OLD.status, NEW.status,
            CASE WHEN dspex.is_transition(OLD.status, NEW.status)
                THEN 'without an audit entry' ELSE 'is not a transition' END
            USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.audit_seq = OLD.audit_seq + 1 AND NEW.audit_hash <> OLD.audit_hash AND pg_has_role(
        current_user, (SELECT relowner FROM pg_class WHERE oid = 'dspex.executions'::regclass), 'USAGE') THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'execution %: its outcome and its audit trail do not change without a transition', OLD.id
        USING ERRCODE = 'insufficient_privilege';
END $$;

-- The condition is the whole check: the function is not called for what is legal.
CREATE TRIGGER executions_transition BEFORE UPDATE ON dspex.executions
    FOR EACH ROW WHEN (CASE WHEN OLD.status = NEW.status
        THEN OLD.finished_at IS NOT NULL OR OLD.audit_seq <> NEW.audit_seq OR OLD.audit_hash <> NEW.audit_hash
        ELSE NOT dspex.is_transition(OLD.status, NEW.status)
            OR NEW.audit_seq <> OLD.audit_seq + 1 OR NEW.audit_hash = OLD.audit_hash END)
    EXECUTE FUNCTION dspex.refuse_rewrite();
"""


# Partitions belong to the schema's owner, and so do these functions: the role of workers, which calls them, needs no
# right to alter tables. Every name in them is qualified, because they run with their owner's rights. None waits long
# for a lock, because every later request would wait behind it: it fails, and is called again later.
PARTITIONS = """
CREATE FUNCTION dspex.first_id(at timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- Make the partitions of a period, which begins with the day in its name. False when it has rows in the default
-- partitions, which Postgres would have to move, or when a part of it belongs to another period.
CREATE FUNCTION dspex.make_period(period text, low uuid, high uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    parent text;
    begins timestamptz;
BEGIN
    IF period !~ '^[0-9]{4}_[0-9]{2}_[0-9]{2}$' THEN
        RAISE EXCEPTION '% does not name a period', quote_literal(period) USING ERRCODE = 'invalid_parameter_value';
    END IF;
    begins := (replace(period, '_', '-') || ' 00:00:00+00')::timestamptz;
    IF low <> dspex.first_id(begins) OR high <= low OR high > dspex.first_id(begins + interval '744 hours') THEN
        RAISE EXCEPTION 'the period % begins on the day in its name and lasts 31 days at most: % to % is refused',
            period, low, high USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF begins > clock_timestamp() + interval '1 year' THEN
        RAISE EXCEPTION 'the period % begins more than a year from now', period
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF EXISTS (SELECT FROM dspex.periods p WHERE p.low < make_period.high AND p.high > make_period.low) THEN
        RETURN false;
    END IF;
    IF EXISTS (SELECT FROM dspex.executions_default WHERE id >= low AND id < high)
        OR EXISTS (SELECT FROM dspex.lm_calls_default WHERE execution_id >= low AND execution_id < high)
        OR EXISTS (SELECT FROM dspex.audit_events_default WHERE execution_id >= low AND execution_id < high) THEN
        RETURN false;
    END IF;
    INSERT INTO dspex.periods (name, low, high) VALUES (period, low, high) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false; -- another process has just made it
    END IF;
    FOREACH parent IN ARRAY ARRAY['executions', 'lm_calls', 'audit_events'] LOOP
        EXECUTE format('CREATE TABLE dspex.%I PARTITION OF dspex.%I FOR VALUES FROM (%L) TO (%L)',
            parent || '_' || period, parent, low, high);
    END LOOP;
    -- Postgres does not give partitions the TRUNCATE triggers of their parent.
    EXECUTE format('CREATE TRIGGER audit_events_no_truncate BEFORE TRUNCATE ON dspex.%I
        FOR EACH STATEMENT EXECUTE FUNCTION dspex.refuse_audit_change()', 'audit_events_' || period);
    RETURN true;
END $$;

-- Remove the partitions of a period that has not begun. False when they have rows.
CREATE FUNCTION dspex.unmake_period(period text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    parent text;
    used boolean;
BEGIN
    PERFORM FROM dspex.periods WHERE name = period AND low > dspex.first_id(clock_timestamp()) FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    FOREACH parent IN ARRAY ARRAY['executions', 'lm_calls', 'audit_events'] LOOP
        EXECUTE format('LOCK TABLE dspex.%I IN ACCESS EXCLUSIVE MODE', parent || '_' || period);
        EXECUTE format('SELECT EXISTS (SELECT FROM dspex.%I)', parent || '_' || period) INTO used;
        IF used THEN
            RETURN false;
        END IF;
    END LOOP;
    FOREACH parent IN ARRAY ARRAY['executions', 'lm_calls', 'audit_events'] LOOP
        EXECUTE format('DROP TABLE dspex.%I', parent || '_' || period);
    END LOOP;
    DELETE FROM dspex.periods WHERE name = period;
    RETURN true;
END $$;
"""

# A period is removed in small steps, each of them harmless when taken twice: its executions and model calls are
# detached; the last hashes of their trails are digested; they are dropped; then its audit entries are.
RETENTION = """
-- Move the rows that stay from a detached partition to the default partition of its parent.
CREATE FUNCTION dspex.put_back(parent text, detached text, ids uuid[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    key text := CASE parent WHEN 'executions' THEN 'id' ELSE 'execution_id' END;
    columns text;
BEGIN
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO columns FROM pg_attribute
    WHERE attrelid = format('dspex.%I', detached)::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
    IF parent = 'audit_events' THEN -- the transitions of these entries are long over
        ALTER TABLE dspex.audit_events_default DISABLE TRIGGER audit_events_of_transitions;
    END IF;
    EXECUTE format('WITH kept AS (DELETE FROM dspex.%1$I WHERE %2$I = ANY($1) RETURNING %3$s)
        INSERT INTO dspex.%4$I (%3$s) SELECT %3$s FROM kept', detached, key, columns, parent || '_default') USING ids;
    IF parent = 'audit_events' THEN
        ALTER TABLE dspex.audit_events_default ENABLE TRIGGER audit_events_of_transitions;
    END IF;
END $$;

-- Detach the executions and model calls of a period that is over. Returns how many were not settled before a time, and
-- stay.
CREATE FUNCTION dspex.retire_executions(period text, settled_before timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    executions text := 'executions_' || period;
    lm_calls text := 'lm_calls_' || period;
    kept uuid[];
BEGIN
    PERFORM FROM dspex.periods WHERE name = period AND retired_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    PERFORM FROM dspex.periods WHERE name = period AND high <= dspex.first_id(clock_timestamp());
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the period % is not over', period USING ERRCODE = 'insufficient_privilege';
    END IF;
    EXECUTE format('ALTER TABLE dspex.executions DETACH PARTITION dspex.%I', executions);
    EXECUTE format('ALTER TABLE dspex.lm_calls DETACH PARTITION dspex.%I', lm_calls);
    -- These conditions match the partial indexes, so that nothing else is read.
    EXECUTE format('SELECT array_agg(id) FROM (
            SELECT id FROM dspex.%1$I WHERE status = ''queued'' AND dispatched_at IS NULL
            UNION ALL SELECT id FROM dspex.%1$I WHERE status = ''queued'' AND dispatched_at IS NOT NULL
            UNION ALL SELECT id FROM dspex.%1$I WHERE status = ''running''
            UNION ALL SELECT id FROM dspex.%1$I WHERE status = ''waiting''
            UNION ALL SELECT id FROM dspex.%1$I WHERE finished_at >= $1
            LIMIT 1001) unsettled', executions) INTO kept USING settled_before;
    IF cardinality(kept) > 1000 THEN
        RAISE EXCEPTION 'more than 1,000 of its executions are not settled, or were settled lately'
            USING ERRCODE = 'object_in_use';
    END IF;
    PERFORM dspex.put_back('executions', executions, kept);
    PERFORM dspex.put_back('lm_calls', lm_calls, kept);
    UPDATE dspex.periods SET retired_at = clock_timestamp() WHERE name = period;
    RETURN coalesce(cardinality(kept), 0);
END $$;

-- Digest the ends of the trails of the detached executions, as audit_chain.Digest does; a test compares them.
CREATE FUNCTION dspex.digest_retired(period text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    execution record;
    count bigint := 0;
    value bytea := '';
BEGIN
    PERFORM FROM dspex.periods WHERE name = period AND retired_at IS NOT NULL AND digest IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    FOR execution IN EXECUTE
        format('SELECT id, audit_seq, audit_hash FROM dspex.%I ORDER BY id', 'executions_' || period)
    LOOP
        value := sha256(value || uuid_send(execution.id) || int4send(execution.audit_seq) || execution.audit_hash);
        count := count + 1;
    END LOOP;
    UPDATE dspex.periods SET executions = count, digest = value WHERE name = period;
END $$;

-- Detach the audit entries of a period whose executions are retired; entries of remaining executions stay.
CREATE FUNCTION dspex.retire_audit(period text, export text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    p dspex.periods;
    entries text := 'audit_events_' || period;
BEGIN
    SELECT * INTO p FROM dspex.periods WHERE name = period AND digest IS NOT NULL AND audit_retired_at IS NULL
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    EXECUTE format('ALTER TABLE dspex.audit_events DETACH PARTITION dspex.%I', entries);
    PERFORM dspex.put_back('audit_events', entries,
        ARRAY(SELECT id FROM dspex.executions WHERE id >= p.low AND id < p.high));
    UPDATE dspex.periods SET audit_retired_at = clock_timestamp(), audit_export = export WHERE name = period;
END $$;

-- Drop the detached tables of a period, executions only once they are digested.
CREATE FUNCTION dspex.drop_retired(period text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    detached text;
BEGIN
    PERFORM FROM dspex.periods WHERE name = period AND digest IS NOT NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    FOREACH detached IN ARRAY ARRAY['executions_', 'lm_calls_', 'audit_events_'] LOOP
        PERFORM FROM pg_class WHERE oid = to_regclass(format('dspex.%I', detached || period)) AND NOT relispartition;
        IF FOUND THEN
            EXECUTE format('DROP TABLE dspex.%I', detached || period);
        END IF;
    END LOOP;
END $$;

-- Delete executions of the default partitions, with their model calls and audit entries, that settled before a time
-- and are older than the last removed period. Returns how many.
CREATE FUNCTION dspex.delete_strays(ids uuid[], settled_before timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    gone uuid[];
BEGIN
    WITH deleted AS (
        DELETE FROM dspex.executions_default WHERE id = ANY(ids) AND finished_at < settled_before
            AND id < (
            SELECT high FROM dspex.periods WHERE audit_retired_at IS NOT NULL ORDER BY high DESC LIMIT 1)
        RETURNING id
    ) SELECT array_agg(id) INTO gone FROM deleted;
    DELETE FROM dspex.lm_calls_default WHERE execution_id = ANY(gone);
    DELETE FROM dspex.audit_events_default WHERE execution_id = ANY(gone);
    RETURN coalesce(cardinality(gone), 0);
END $$;

-- Remove requests to models, and arguments of tools, that were recorded before a time. Returns how many.
CREATE FUNCTION dspex.remove_requests(recorded_before timestamptz, most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    removed integer;
BEGIN
    WITH old AS (
        SELECT execution_id, request_hash, occurrence, attempt FROM dspex.lm_calls
        WHERE request IS NOT NULL AND created_at < recorded_before
        ORDER BY created_at LIMIT most FOR UPDATE SKIP LOCKED
    )
    UPDATE dspex.lm_calls c SET request = NULL FROM old
    WHERE c.execution_id = old.execution_id AND c.request_hash = old.request_hash
        AND c.occurrence = old.occurrence AND c.attempt = old.attempt;
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END $$;

REVOKE ALL ON FUNCTION dspex.append_entries(uuid[], bytea[], text[]),
    dspex.append_feedback(uuid, double precision, boolean, text, text), dspex.make_period(text, uuid, uuid),
    dspex.unmake_period(text), dspex.put_back(text, text, uuid[]), dspex.retire_executions(text, timestamptz),
    dspex.digest_retired(text), dspex.retire_audit(text, text), dspex.drop_retired(text),
    dspex.delete_strays(uuid[], timestamptz), dspex.remove_requests(timestamptz, integer) FROM PUBLIC;
"""


def upgrade() -> None:
    connection = op.get_bind()
    for script in (TABLES, DEFAULT_PARTITIONS, AUDIT, TRANSITIONS, PARTITIONS, RETENTION):
        connection.exec_driver_sql(script.replace("%", "%%"))  # psycopg reads % as a placeholder
