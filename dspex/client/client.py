"""The client: deploys programs, submits executions and reads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Self, TypeVar, overload
from uuid import UUID

import psycopg
from sqlalchemy import Connection

from dspex.client.audit_trail import AuditTrail
from dspex.client.batch import Batch, BatchSummary, Progress, map_result, mapped, store_all
from dspex.client.execution import Execution, executed
from dspex.client.improvement.dataset import Dataset
from dspex.client.improvement.dataset_intake import dataset_of_executions, open_dataset, store_dataset
from dspex.client.improvement.evaluation import Evaluation
from dspex.client.improvement.evaluation_submit import find_evaluation, find_evaluations, submit_evaluation
from dspex.client.improvement.optimization import Optimization, find_optimization, submit_optimization
from dspex.client.improvement.replayed_executions import Replay, submit_replay
from dspex.client.lookup import check_arguments, require_program
from dspex.client.notebook.live_progress import shown
from dspex.client.recurring.schedule import Schedule, Schedules
from dspex.client.result import Result, result_type_of
from dspex.client.session import Session
from dspex.client.submitter import Submitter
from dspex.client.tables.given_rows import given_rows
from dspex.client.waits.approval import Approval, Approvals
from dspex.client.waits.bundle import Bundle
from dspex.data.frames import as_frame, beside
from dspex.errors import ExecutionNotFound, FieldError, ValidationError
from dspex.operations.alerts.alert import Alert
from dspex.operations.alerts.alert_evaluation import list_alerts
from dspex.operations.audit.verify_audit import verify_trails
from dspex.operations.health.conditions import HealthReport
from dspex.operations.report.monitoring_report import MonitoringReport, gather
from dspex.program.improvement.purpose import METRIC_SECONDS
from dspex.program.improvement.rollout_guard import Guard
from dspex.program.internal_programs import INTERNAL_PREFIXES, is_internal
from dspex.program.models import Model
from dspex.program.program import Program
from dspex.program.storable_text import is_storable
from dspex.settings import Settings
from dspex.store import programs, workers
from dspex.store.audit_chain import Verdict
from dspex.store.database import Database
from dspex.store.improvement import dataset_rows, program_changes, program_versions, rollouts
from dspex.store.improvement.program_changes import ProgramChange
from dspex.store.improvement.program_versions import Version
from dspex.store.improvement.rollouts import Rollout
from dspex.store.lifecycle import batches, bundles, executions
from dspex.store.lifecycle.approvals import CallSelection
from dspex.store.lifecycle.selection import Selection
from dspex.store.lifecycle.status import Status
from dspex.store.partitions import moment
from dspex.store.programs import Deployed, ProgramSummary
from dspex.submit.batch_rows import Rejected
from dspex.submit.bulk import MAP_ROWS, chunks
from dspex.wait.blocking_driver import complete, iterate
from dspex.wait.completion import any_final, check_timeout
from dspex.wait.driver import Row, steps

__all__ = ["Client", "settings_of"]

T = TypeVar("T")

#: The longest note of a version.
NOTE_MOST = 1000


class Client:
    """Submits and reads. Share one between threads; close it, or use it as a context manager.

    ``settings`` come from ``DSPEX_*`` and ``dspex.toml`` when not given; ``database_url`` and ``broker_url`` override
    them. Nothing is connected before the first call.

    Raises ConfigurationError for wrong settings, BackendUnavailable when no stack is configured or running.
    """

    def __init__(
        self, settings: Settings | None = None, *, database_url: str | None = None, broker_url: str | None = None
    ) -> None:
        self._use(Session(settings_of(settings, database_url=database_url, broker_url=broker_url)))

    def _use(self, session: Session) -> None:
        self._session = session
        self._submitter = Submitter(session)
        self._schedules = Schedules(session, self._submitter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end every wait. Executions go on. A client that is used again connects again."""
        self._session.close()

    @property
    def settings(self) -> Settings:
        """The settings in use."""
        return self._session.settings

    @property
    def _database(self) -> Database:
        return self._session.database

    # ------------------------------------------------------------------------------------------------- programs

    def deploy(self, program: Program, *, current: bool = True, note: str | None = None) -> Deployed:
        """Store the program and make this version the current one. The same content is the same version.

        ``current``  false: submits go on with the version that is current now, until :meth:`promote`. The first version
                     of a program is the current one in any case
        ``note``     a text that :meth:`versions` shows with the version

        Raises EncryptionError for a program with secret fields when no key is set, ValidationError for a program that
        is larger than DSPEX_MAX_PROGRAM_BYTES or has the name of one of DSPex's own programs, SecretInProgram for a
        header such as ``x-api-key`` that does not name a variable.
        """
        if is_internal(program.name):
            expected = f"a name that does not begin with {' or '.join(INTERNAL_PREFIXES)}: DSPex's own programs do"
            raise ValidationError.of(f"program {program.name!r}", [FieldError("name", expected, repr(program.name))])
        if note is not None and not (isinstance(note, str) and len(note) <= NOTE_MOST and is_storable(note)):
            expected = f"a text of {NOTE_MOST} characters at most, without NUL"
            raise ValidationError.of(f"program {program.name!r}", [FieldError("note", expected, repr(note)[:80])])
        return self._session.deploy(program, current=current, note=note)

    def program(self, name: str, version: str | None = None) -> Program:
        """The deployed program: its current version, or the one that a version or an alias names.

        Raises ProgramNotFound.
        """
        catalogue = self._session.catalogue
        return catalogue.current(name, fresh=True) if version is None else catalogue.named(name, version)

    def versions(self, name: str, *, candidates: bool = False) -> Sequence[Version]:
        """The deployed versions of a program, the newest first; ``candidates``: also the versions that optimisers
        tried and that were not deployed otherwise. Raises ProgramNotFound."""
        found = self._database.run(partial(program_versions.listing, name=name, candidates=candidates))
        if not found:
            self._session.catalogue.current(name, fresh=True)  # raises the error, with a name that is near
        return found

    def promote(self, name: str, version: str, *, by: str | None = None) -> Deployed:
        """Make a deployed version, or the one that an alias names, the current one: new submits go to it, with its
        limits. Executions that were submitted before keep their version. A rollout under way ends. ``by`` is who does
        it, for :meth:`program_changes`.

        Raises ProgramNotFound.
        """
        return self._session.deploy(self._session.catalogue.named(name, version), by=by)

    def alias(self, name: str, alias: str, version: str, *, by: str | None = None) -> None:
        """Let a name, such as ``"champion"``, stand for a version of a program in place of the one it stood for.

        Raises ProgramNotFound, ValidationError.
        """
        self._session.catalogue.set_alias(name, alias, version, by=by)

    def rollout(
        self, name: str, version: str, *, percent: float = 10, guard: Guard | None = None, by: str | None = None
    ) -> Rollout:
        """Send a share of the new submits by name to a version that is not the current one.

        A submit with an idempotency key is always on one side. Batches are not divided: their rows are executed with
        the current version, or with the one that is named. The rollout ends when its ``guard`` trips, which beat checks
        each time that it evaluates alerts, when another version is made the current one, or with :meth:`end_rollout`.
        A rollout under way is replaced.

        Raises ProgramNotFound, and ValidationError for the current version, and for a wrong share or guard.
        """
        return self._session.begin_rollout(name, version, percent=percent, guard=guard or Guard(), by=by)

    def end_rollout(self, name: str, *, by: str | None = None) -> Rollout | None:
        """End the rollout of a program: all new submits go to the current version. None when there is none."""
        return self._database.run(partial(rollouts.end, program=name, reason="ended by an operator", by=by))

    def rollouts(self, name: str) -> Sequence[Rollout]:
        """The rollouts of a program, the newest first: under way, or ended and why."""
        return self._database.run(partial(rollouts.listing, program=name))

    def program_changes(self, name: str, *, limit: int = 50) -> Sequence[ProgramChange]:
        """What was done to a program, the newest first: promotions, rollouts, pauses; when, and by whom."""
        check_arguments("program_changes", limit=limit, name=name)
        return self._database.run(partial(program_changes.listing, program=name, most=limit))

    # --------------------------------------------------------------------------------------------------- submit

    def submit(
        self,
        program: str | Program,
        inputs: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        priority: int = 5,
        run_at: datetime | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        connection: Connection | psycopg.Connection[Any] | None = None,
        stream: bool = False,
        tenant: str | None = None,
        webhook: str | None = None,
        route: str | None = None,
        within: str | float | None = None,
        otherwise: str | None = None,
        dedup: bool | timedelta = False,
        version: str | None = None,
    ) -> Execution:
        """Store an execution and wake a worker for it. When this returns, it is in Postgres and will run.

        ``program``          the name of a deployed program, or the program itself, which must be the deployed version
        ``idempotency_key``  a second submit with the same key (1 to 255 characters) returns the first execution
        ``priority``         0 to 9; 0 runs first
        ``run_at``           not before this moment (with a time zone)
        ``timeout``          seconds an attempt may take, in place of the program's timeout
        ``metadata``         JSON-friendly data to store with it
        ``connection``       a connection to the same database, of SQLAlchemy (with psycopg) or of psycopg, such as
                             Django's: the submit is part of its transaction. It can be read, and runs, after the
                             commit; a rollback removes it
        ``stream``           :meth:`Execution.stream` yields the model's text while the model writes it. The text goes
                             through Redis and stays there for some minutes
        ``tenant``           whose execution it is: 1 to 64 of the characters A-Z a-z 0-9 _ . -
        ``webhook``          an address to which the outcome is posted, signed, once it is final: by a running
                             `dspex serve`. In place of the program's ``webhook``
        ``route``            how its model calls are made, in place of the program's ``route``; also ``within`` and
                             ``otherwise``: see :class:`dspex.Program`
        ``dedup``            return an execution of the same program version with equal inputs that was submitted with
                             ``dedup`` and completed (within this time), is under way or waits for its ``run_at``, if
                             there is one: see :attr:`Execution.deduplicated`
        ``version``          a deployed version or an alias, in place of the current version

        Raises ValidationError (nothing was stored), RateLimited (nothing was stored: see
        DSPEX_RATE_LIMIT_PER_MINUTE), EncryptionError, ProgramNotFound, ProgramVersionMismatch, IdempotencyConflict, and
        BackendUnavailable when Postgres is out of reach (its message states whether it was stored). When only Redis is
        out of reach the execution is stored, a warning is logged, and it runs once Redis is back.
        """
        row = self._submitter.submit(
            program, inputs, idempotency_key=idempotency_key, priority=priority, run_at=run_at, timeout=timeout,
            metadata=metadata, connection=connection, stream=stream, tenant=tenant, webhook=webhook, route=route,
            within=within, otherwise=otherwise, dedup=dedup, version=version,
        )  # fmt: skip
        return Execution(self._session, row)

    @overload
    def execute(
        self,
        program: str | Program,
        inputs: Mapping[str, Any],
        *,
        result_type: type[T],
        timeout: float | None = None,
        **options: Any,
    ) -> T: ...

    @overload
    def execute(
        self, program: str | Program, inputs: Mapping[str, Any], *, timeout: float | None = None, **options: Any
    ) -> Result: ...

    def execute(
        self,
        program: str | Program,
        inputs: Mapping[str, Any],
        *,
        result_type: type[Any] | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """Submit, and wait up to ``timeout`` seconds for the result; ``options`` are passed to :meth:`submit`. With
        ``result_type`` it is an instance of that class: see :meth:`Result.as_model`.

        Raises the errors of :meth:`submit` and :meth:`Execution.result`, and ValidationError for a ``result_type`` that
        cannot be one, before it submits, or that the result does not fit. When the wait ends, the execution goes on.
        """
        wanted = None if result_type is None else result_type_of(result_type)
        ended = complete(executed(self._session, self._submitter, program, inputs, timeout, options))
        if ended is None:
            execution = self.submit(program, inputs, **options)
            ended = execution.id, execution.result(timeout)
        id, result = ended
        return result if wanted is None else wanted.read(result, id)

    def submit_many(
        self,
        program: str | Program,
        rows: Iterable[Any],
        *,
        priority: int = 5,
        run_at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        tenant: str | None = None,
        webhook: str | None = None,
        on_rejected: Callable[[Rejected], None] | None = None,
        route: str | None = None,
        within: str | float | None = None,
        otherwise: str | None = None,
        dedup: bool | timedelta = False,
        version: str | None = None,
    ) -> Batch:
        """Store an execution for each row, a thousand at a time, however many there are; workers begin at once.

        ``rows`` are mappings, ``dspy.Example``s, a data frame (pandas, Polars, Arrow) or a dataset of Hugging Face.
        From a frame or a dataset, the columns with the names of the inputs are taken.

        All rows are executed with one version: the one that ``version`` names, or the one that is current now.

        A row that does not fit the signature is not stored and does not stop the others: it is added to
        ``batch.rejected`` with its index and its error, or passed to ``on_rejected`` if that is given. With a rate
        limit, each group of rows counts as one submit and waits for its turn.
        ``route="batch"`` sends the model calls of all rows through the provider's batch API, for about half the price:
        see :class:`dspex.Program`, also for ``within`` and ``otherwise``. With ``dedup`` the execution of a row takes
        over the outputs of an execution of the same program version with equal inputs that completed (within this time)
        or is under way, or of an earlier row; it runs itself if that one fails: see :attr:`Execution.deduplicated`.
        ``webhook`` is an address, in place of the program's, to which one message is posted, signed, once all rows are
        stored and over: counts, cost and failures by cause; and another one each time that failed rows were retried.

        Raises BackendUnavailable when the connection to Postgres is lost; its ``details`` have ``batch_id`` and how
        many rows were stored.
        """
        taken, intake = self._submitter.begin(
            program, version=version, priority=priority, run_at=run_at, metadata=metadata, tenant=tenant,
            webhook=webhook, route=route, within=within, otherwise=otherwise, dedup=dedup,
        )  # fmt: skip
        driver = self._session.driver
        given = chunks(given_rows(rows, as_frame(rows), intake.signature))
        complete(store_all(driver, intake, steps(driver, given), on_rejected or taken.rejected.append))
        intake.finish()
        return Batch(self._session, taken)

    def map(
        self,
        program: str | Program,
        rows: Iterable[Any],
        *,
        timeout: float | None = None,
        return_exceptions: bool = False,
        priority: int = 5,
        metadata: Mapping[str, Any] | None = None,
        version: str | None = None,
    ) -> Any:
        """The result of each row, in the order of the rows, while later rows are still being submitted.

        At most a few thousand rows are under way, so ``rows`` may be of any length. A row that was rejected or failed
        raises its error, which ends the iteration (submitted rows go on); with ``return_exceptions`` the error is
        yielded in place of the result. Raises ExecutionTimedOut when the whole iteration takes longer than ``timeout``
        seconds.

        For a data frame (pandas, Polars, Arrow) or a dataset of Hugging Face, returns the same kind of frame, with a
        column for each output beside the others, once all rows are final. With ``return_exceptions`` it also has
        ``error_code`` and ``error_message`` if a row failed. An output whose name is taken becomes ``NAME_output``, and
        a column of errors ``NAME_error``; where that is a column too, with a number: ``NAME_output_2``.
        """
        check_timeout(timeout)
        session, frame = self._session, as_frame(rows)
        taken, intake = self._submitter.begin(program, version=version, priority=priority, metadata=metadata)
        source = steps(session.driver, chunks(given_rows(rows, frame, intake.signature), MAP_ROWS))
        pairs = iterate(mapped(session.driver, taken, intake, source, timeout))
        results = (map_result(session, slot, row, return_exceptions=return_exceptions) for slot, row in pairs)
        total = len(rows) if isinstance(rows, Sized) else None
        watched = shown(results, f"{taken.program}, batch {taken.id}", total if frame is None else len(frame))
        return watched if frame is None else beside(frame, intake.signature, watched)

    def batch(self, id: UUID | str) -> Batch:
        """A batch that was submitted before, by any process, with the rows stored so far.

        Its ``rejected`` is empty: only the submit itself knows why it rejected a row. Raises ExecutionNotFound when no
        row of the batch is stored.
        """
        return Batch(self._session, self._session.batch_rows(_uuid(id, "a batch")))

    def schedule(
        self,
        name: str,
        *,
        program: str,
        inputs: Mapping[str, Any],
        cron: str,
        timezone: str = "UTC",
        missed: str = "run_once",
        priority: int = 5,
        metadata: Mapping[str, Any] | None = None,
        tenant: str | None = None,
    ) -> Schedule:
        """Submit a program at the times of a cron expression; replaces the schedule of this name.

        ``cron``      minute, hour, day of the month, month, day of the week: ``"0 7 * * 1-5"``
        ``timezone``  whose clock the times are read on, also when it is put forward or back: ``"Europe/Berlin"``
        ``missed``    what becomes of due times that passed while no `dspex serve` ran: ``"run_once"``, one execution
                      for all of them, or ``"skip"``

        Each due time is submitted once, by any running `dspex serve`. Raises ValidationError, also for a program with
        secret fields, and ProgramNotFound.
        """
        return self._schedules.set(
            name, program=program, inputs=inputs, cron=cron, timezone=timezone, missed=missed, priority=priority,
            metadata=metadata, tenant=tenant,
        )  # fmt: skip

    def schedules(self) -> Sequence[Schedule]:
        """The schedules by name, each with its next due time and its last execution."""
        return self._schedules.all()

    def unschedule(self, name: str) -> bool:
        """Remove a schedule. Its executions stay. False when there is none of this name."""
        return self._schedules.remove(name)

    # -------------------------------------------------------------------------------------------------- improve

    def dataset(
        self,
        name: str,
        source: Any = None,
        *,
        inputs: Collection[str] | None = None,
        executions: Iterable[Execution] | None = None,
        version: str | None = None,
    ) -> Dataset:
        """Store rows as a dataset, or open a stored one: without a source, its newest version or the one named.

        The same rows are the same version, which is stored once.

        ``source``      rows (mappings), ``dspy.Example`` objects, a file (.jsonl .jsonl.gz .csv .tsv .parquet), or a
                        frame of pandas, polars or arrow, or a dataset of Hugging Face: read a row at a time
        ``inputs``      the names of the columns that are inputs; the others are labels. Examples have theirs
        ``executions``  executions in place of a source. Their labels are the corrected outputs of feedback, else the
                        recorded ones; executions without either, and those whose last score is 0 or less, are left
                        out. Sealed if the program has secret fields

        Raises ValidationError with the numbers of the rows that do not fit; then nothing is stored.
        """
        if executions is not None:
            return dataset_of_executions(self._session, name, executions)
        if source is None:
            return open_dataset(self._session, name, version)
        return store_dataset(self._session, name, source, inputs=inputs)

    def datasets(self) -> Sequence[Dataset]:
        """The stored datasets by name, each with its versions, the newest first."""
        return [Dataset(self._session, stored) for stored in self._database.run(dataset_rows.listing)]

    def evaluate(
        self,
        program: str | Program,
        dataset: Dataset | str,
        *,
        metric: str | Callable[..., Any],
        version: str | None = None,
        repeats: int = 1,
        budget_usd: float | None = None,
        metric_timeout: float = METRIC_SECONDS,
        priority: int = 7,
        metadata: Mapping[str, Any] | None = None,
    ) -> Evaluation:
        """Execute a program for each row of a dataset, and have workers score the outputs. Returns at once.

        ``dataset``         a dataset, a part of one, or the name of one
        ``metric``          ``"package.module:function"`` of a package that the workers allow, with DSPy's arguments
                            ``(example, prediction, trace=None)``, GEPA's five, or a coroutine function; or one of
                            ``dspex.metrics``: ``"exact" "contains" "numeric" "f1"``, or
                            ``dspex.metrics.judge("program")``, a deployed program with an output ``score``. It
                            returns a number, or an object with ``score`` and ``feedback``. Its model calls are part of
                            the execution
        ``version``         a deployed version or an alias, in place of the current version
        ``repeats``         executions of each row
        ``budget_usd``      what all model calls may cost: reserved before each. What is left when it is spent is not
                            run, and has no score
        ``metric_timeout``  seconds that the metric may take

        All rows are checked first, and stored together: a row that does not fit is an error before anything is paid
        for. The evaluation survives any process; :meth:`evaluation` finds it again. Raises ValidationError,
        ProgramNotFound.
        """
        return submit_evaluation(
            self._session, self._submitter, program, dataset, metric=metric, version=version, repeats=repeats,
            budget_usd=budget_usd, metric_seconds=metric_timeout, priority=priority, metadata=metadata,
        )  # fmt: skip

    def evaluation(self, id: UUID | str) -> Evaluation:
        """An evaluation that was begun before, by any process. Raises ExecutionNotFound."""
        return find_evaluation(self._session, _uuid(id, "an evaluation"))

    def evaluations(self, *, program: str | None = None, limit: int = 20) -> Sequence[Evaluation]:
        """Evaluations, the newest first."""
        check_arguments("evaluations", limit=limit, program=program)
        return find_evaluations(self._session, program=program, limit=limit)

    def optimize(
        self,
        program: str,
        *,
        trainset: Dataset | str,
        valset: Dataset | str | None = None,
        metric: str | Callable[..., Any],
        optimizer: str = "gepa",
        options: Mapping[str, Any] | None = None,
        models: Mapping[str, str | Model] | None = None,
        budget_usd: float | None = None,
        metric_timeout: float = METRIC_SECONDS,
        seed: int = 0,
        version: str | None = None,
    ) -> Optimization:
        """Have a worker run an optimiser of DSPy on a program. Returns at once.

        The job is an execution, and each rollout is an execution of the program. When a worker dies, the optimiser runs
        again from its beginning, and is given what was paid for: its own model calls from the journal, and equal
        rollouts from their executions.

        ``trainset``, ``valset``  datasets, parts of them, or names
        ``metric``     as for :meth:`evaluate`; it is called in the job
        ``optimizer``  ``"bootstrap" "bootstrap_random_search" "copro" "gepa" "labeled" "mipro" "simba"``, or
                       ``"package.module:factory"`` of a package that the workers allow
        ``options``    arguments of the optimiser
        ``models``     models that the job names: ``{"reflection": Model(...)}`` is what GEPA, MIPROv2 and COPRO ask for
                       instructions; without, they ask the program's model
        ``budget_usd`` what all calls may cost, of the optimiser and of the rollouts: reserved before each. When it is
                       spent, the job ends with its best candidate so far
        ``metric_timeout``  seconds that the metric may take for an example
        ``seed``       of what the optimiser draws by chance
        ``version``    the version to begin with, in place of the current one

        All rows are checked first, as by :meth:`evaluate`. ``result().version`` is the best version: deployed, not
        current. Raises ValidationError, ProgramNotFound.
        """
        return submit_optimization(
            self._session, self._submitter, program, trainset=trainset, valset=valset, metric=metric,
            optimizer=optimizer, options=options, models=models, budget_usd=budget_usd, seed=seed, version=version,
            metric_seconds=metric_timeout,
        )  # fmt: skip

    def optimization(self, id: UUID | str) -> Optimization:
        """An optimisation that was begun before, by any process. Raises ExecutionNotFound."""
        return find_optimization(self._session, _uuid(id, "an optimisation"))

    def replay(
        self,
        program: str,
        *,
        version: str,
        since: datetime | None = None,
        status: Status | str | None = "completed",
        limit: int = 500,
        budget_usd: float | None = None,
        priority: int = 7,
    ) -> Replay:
        """Execute the recorded inputs of the latest executions with another version. Returns at once.

        Each execution is given the answers that were recorded for the one it replays, so that equal requests are not
        paid for; results of tools, too. A tool that the version calls with other arguments is called. Answers of
        sealed executions are asked for again.

        ``version``     a deployed version or an alias
        ``since``, ``status``, ``limit``  which executions, as for :meth:`list`; only final ones
        ``budget_usd``  what the new model calls may cost

        Raises ProgramNotFound, and ValidationError when no execution fits or recorded inputs do not fit the version.
        """
        return submit_replay(
            self._session, self._submitter, program, version=version, since=since, status=status, limit=limit,
            budget_usd=budget_usd, priority=priority,
        )  # fmt: skip

    # ----------------------------------------------------------------------------------------------------- read

    def get(self, id: UUID | str) -> Execution:
        """The execution. Raises ExecutionNotFound."""
        return Execution(self._session, self._session.row(_uuid(id)))

    def list(
        self,
        *,
        program: str | None = None,
        status: Status | str | None = None,
        since: datetime | None = None,
        batch: UUID | str | None = None,
        error: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        tenant: str | None = None,
        feedback: str | None = None,
        internal: bool = False,
        before: UUID | str | None = None,
        limit: int = 100,
    ) -> list[Execution]:
        """Executions, the newest first; ``status="failed"`` are the dead letters.

        ``batch``     only executions of the batch with this id
        ``error``     only failed executions whose error, or its cause, has this code
        ``metadata``  only executions whose metadata has these members
        ``tenant``    only executions of this tenant
        ``feedback``  ``"any"``: only executions that were judged; ``"corrected"``: only those with corrected outputs
        ``internal``  DSPex's own executions, too, of `dspex doctor` and `dspex bench`. They are also listed when their
                      program or their batch is named
        ``before``    only executions that were submitted before the one with this id: the next page of a list

        Raises ValidationError for an argument that selects nothing: an unknown status, or a ``since`` without a zone.
        """
        check_arguments("list", limit=limit, since=since, status=status, program=program, error=error, tenant=tenant)
        if feedback not in (None, "any", "corrected"):
            fault = FieldError("feedback", "'any' or 'corrected'", repr(feedback)[:80])
            raise ValidationError.of("list", [fault])
        selection = Selection(
            program=program,
            feedback=feedback,
            status=None if status is None else Status(status).value,
            since=since,
            batch_id=None if batch is None else _uuid(batch, "a batch"),
            error=error,
            metadata={name: _member_text(value) for name, value in (metadata or {}).items()},
            tenant=tenant,
            before=None if before is None else _uuid(before),
            internal=internal,
        )
        find = partial(executions.listing, selection=selection, limit=limit)
        return [Execution(self._session, row) for row in self._database.run(find)]

    def programs(self, *, internal: bool = False) -> Sequence[ProgramSummary]:
        """The deployed programs by name, each with how many of its executions are queued and running.

        ``internal``: DSPex's own programs, too.
        """
        return self._database.run(partial(programs.summaries, internal=internal))

    def batches(self, *, program: str | None = None, limit: int = 20, internal: bool = False) -> Sequence[BatchSummary]:
        """Batches, the newest first, each with its progress; ``internal``: also batches of DSPex's own programs."""
        check_arguments("batches", limit=limit, program=program)
        find = partial(batches.listing, program=program, internal=internal, most=limit)
        found = self._database.run(find)
        counted = self._database.run(partial(batches.progress_of, batch_ids=[each.id for each in found]))
        return [BatchSummary(id, name, moment(id), Progress.of(counted[id])) for id, name, _ in found]

    def health(self) -> HealthReport:
        """The health of every component that executions need: its condition, since when, and how to fix it.

        Returns within some seconds, also when backends are out of reach: the report says so, and nothing is raised.
        A report is cached for a moment, so frequent calls are cheap.
        """
        return self._session.health.report()

    def workers(self) -> Sequence[Mapping[str, Any]]:
        """The live workers: id, host, pid, version, state, running, concurrency, heartbeat_age_seconds."""
        return self._database.run(workers.listing)

    def alerts(self, *, resolved_within: timedelta = timedelta(days=1)) -> Sequence[Alert]:
        """Alerts that fire or are pending, then those resolved within that time, each the newest first."""
        return list_alerts(self._database, resolved_within=resolved_within)

    def report(self, since: datetime | timedelta = timedelta(days=1), *, internal: bool = False) -> MonitoringReport:
        """Outcomes, times, costs, errors, events, alerts and trends since a moment, or over a span until now.

        ``internal``: DSPex's own executions are counted, too.
        """
        check_arguments("report", since=None if isinstance(since, timedelta) else since)
        return gather(self._database, since=since, internal=internal)

    def progress(self, batch_id: UUID) -> Progress:
        """The progress of a batch, counted in the database."""
        return Progress.of(self._session.progress(batch_id))

    def audit_trail(self, id: UUID) -> AuditTrail:
        """The audit trail of an execution. Raises ExecutionNotFound."""
        return self._session.audit_trail(id)

    def wait_any(self, ids: Collection[UUID], timeout: float | None) -> Iterator[Row]:
        """The row of each of these executions as it becomes final; ends with the last, or after ``timeout`` seconds."""
        return iterate(any_final(self._session.driver, ids, timeout))

    # -------------------------------------------------------------------------------------------------- control

    def cancel(self, id: UUID | str) -> bool:
        """Cancel a queued execution at once, or have the worker of a running one end it within about a second.

        True when it is cancelled or its cancellation was requested: it may still complete before that, so read its
        status. False when it had completed or failed already. Raises ExecutionNotFound.
        """
        return self._session.control.cancel(_uuid(id))

    def cancel_batch(self, id: UUID | str, on_progress: Callable[[int, int], None] = lambda _done, _total: None) -> int:
        """See :meth:`Batch.cancel`. Returns 0 for a batch without stored rows."""
        return self._session.control.cancel_batch(_uuid(id, "a batch"), on_progress)

    def retry(self, id: UUID | str) -> Execution:
        """Queue a failed or cancelled execution again, with as many attempts as its program allows.

        Model calls that were already paid for are replayed. Its failed and cancelled children are queued again, too.

        Raises TransitionRefused for any other status, ExecutionNotFound.
        """
        self._session.control.retry(_uuid(id))
        return self.get(id)

    def retry_failed(
        self,
        program: str | None = None,
        *,
        batch: UUID | str | None = None,
        error: str | None = None,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> int:
        """Queue every execution that has failed by now again. Returns how many.

        ``program``, ``batch`` and ``error`` (the code of the failure or of its cause) limit which. ``on_progress`` is
        called with how many so far, and of how many. DSPex's own executions are retried only by their program or batch.

        Raises ProgramNotFound. Returns 0 for a batch without stored rows.
        """
        check_arguments("retry_failed", program=program, error=error)
        selection = Selection(program=program, batch_id=None if batch is None else _uuid(batch, "a batch"), error=error)
        return self._session.control.retry_failed(selection, on_progress)

    def approvals(
        self, *, program: str | None = None, execution_id: UUID | str | None = None, limit: int = 100
    ) -> Sequence[Approval]:
        """The calls of tools that wait for a decision, those that have waited longest first."""
        check_arguments("approvals", limit=limit, program=program)
        id = None if execution_id is None else _uuid(execution_id)
        return Approvals(self._session).pending(CallSelection(program=program, execution_id=id), limit=limit)

    def approve(
        self, execution_id: UUID | str, call_id: str, *, note: str | None = None, by: str | None = None
    ) -> None:
        """Let the execution make the call; it goes on at once. ``by`` is who decides, by default this user of the
        machine; it is in the audit trail.

        Raises AlreadyDecided when somebody else decided first, ApprovalNotFound when nothing waits for it.
        """
        Approvals(self._session).decide(_uuid(execution_id), call_id, approved=True, note=note, by=by)

    def reject(self, execution_id: UUID | str, call_id: str, *, note: str | None = None, by: str | None = None) -> None:
        """Have the execution go on without the call: the model sees the rejection and its note in the place of the
        tool's result. Raises as :meth:`approve` does."""
        Approvals(self._session).decide(_uuid(execution_id), call_id, approved=False, note=note, by=by)

    def bundles(self, *, ended: bool = True, limit: int = 50) -> Sequence[Bundle]:
        """Bundles of requests at providers' batch APIs, the newest first; ``ended``: also those that are over."""
        check_arguments("bundles", limit=limit)
        return [Bundle.of(each) for each in self._database.run(partial(bundles.listing, ended=ended, most=limit))]

    def pause(self, program: str) -> None:
        """Begin no execution of the program until :meth:`resume`, also of versions deployed meanwhile.

        Running executions go on, and submits are still accepted. Raises ProgramNotFound.
        """
        self._session.control.pause(program)

    def resume(self, program: str) -> None:
        """Begin executions of a paused program again. Raises ProgramNotFound."""
        self._session.control.resume(program)

    def paused(self) -> Mapping[str, str]:
        """The paused programs by name, each with the reason."""
        return self._session.control.paused()

    def verify_audit(
        self,
        *,
        program: str | None = None,
        since: datetime | None = None,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Mapping[UUID, Verdict]:
        """The executions whose audit trail is not intact, each with what is wrong. Empty unless trails were edited.

        Trails are verified a page at a time; ``on_progress`` is called with how many so far, and of how many. Raises
        ProgramNotFound.
        """
        check_arguments("verify_audit", since=since, program=program)
        if program is not None:
            require_program(self._database, program)
        return dict(verify_trails(self._database, program=program, since=since, on_progress=on_progress))


def _member_text(value: Any) -> str:
    """A member of metadata as Postgres reads it from JSON."""
    try:
        return value if isinstance(value, str) else json.dumps(value)
    except (TypeError, ValueError):
        raise ValidationError.of("list", [FieldError("metadata", "JSON-friendly data")]) from None


def settings_of(settings: Settings | None, **urls: str | None) -> Settings:
    """The settings of a client that is given these settings or URLs."""
    return settings or Settings.load(**{name: url for name, url in urls.items() if url})


def _uuid(id: UUID | str, of: str = "an execution") -> UUID:
    if isinstance(id, UUID):
        return id
    try:
        return UUID(str(id))
    except ValueError:
        raise ExecutionNotFound(f"{id!r} is not {of} id", execution_id=str(id)) from None
