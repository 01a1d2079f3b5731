"""What the routes share: the client, the access check, and bounds on what is under way at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from starlette.requests import Request

from dspex.client.async_client import AsyncClient
from dspex.client.execution import AsyncExecution
from dspex.client.improvement.feedback import Feedback
from dspex.client.lookup import not_found
from dspex.client.waits.approval import Approval, Approvals
from dspex.sealing.values import Sealing
from dspex.serve import gateway_metrics
from dspex.serve.access.access_check import AccessCheck
from dspex.serve.access.principal import Principal
from dspex.serve.access.submit_limits import SubmitLimits
from dspex.serve.api.problem_details import HttpRefusal
from dspex.serve.api.request_bodies import Filters
from dspex.serve.known_of_ended import forget_known
from dspex.serve.webhooks.webhook_sender import WebhookSender
from dspex.store.lifecycle import approvals, executions
from dspex.store.lifecycle.approvals import CallSelection, Place
from dspex.store.lifecycle.selection import Selection
from dspex.wait.driver import Row

__all__ = ["Gateway", "StreamSlots", "gateway_of"]

log = logging.getLogger("dspex.serve")

P = ParamSpec("P")
T = TypeVar("T")


class Gateway:
    """A client, and who may use it. The client belongs to the caller.

    What asks Postgres and Redis only runs in the event loop, by :meth:`call`, with the client ``on_loop``. What
    computes or blocks otherwise runs in a thread, with the client of ``blocking``.
    """

    def __init__(self, client: AsyncClient, *, is_open: bool = False) -> None:
        self.client = client
        self.settings = client.settings
        self.session = client._session
        self.blocking = client._client
        self.on_loop = client._on_loop
        self.access = AccessCheck(self.session, is_open=is_open)
        self.limits = SubmitLimits(self.session)
        self.webhooks = WebhookSender(self.blocking._session)
        self.streams = StreamSlots(self.settings.serve_max_streams)
        #: Set when the server stops: streams end, so that clients reconnect to another process.
        self.stopping = False

    def close(self) -> None:
        """End what the gateway began itself."""
        self.webhooks.close()

    async def execution(self, principal: Principal, id: str) -> AsyncExecution:
        """The execution with this id. Raises ExecutionNotFound, also for one that this principal may not see."""
        found = await self.client.get(id)
        if not principal.sees(found._row):
            raise await self.call(not_found, self.session.database, found.id)
        return found

    async def executions(self, principal: Principal, filters: Filters) -> tuple[Sequence[AsyncExecution], UUID | None]:
        """A page of executions, the newest first, and the id to continue before; None after the last page."""
        selection = self.selection(principal, filters)
        find = partial(executions.listing, selection=selection, limit=filters.limit + 1)
        return self._page(await self.call(self.session.database.run, find), filters.limit)

    async def latest_executions(
        self, principal: Principal, filters: Filters
    ) -> tuple[Sequence[AsyncExecution], UUID | None]:
        """:meth:`executions`, of which so many are searched at a time: the page may be empty although another one
        follows."""
        selection = self.selection(principal, filters)
        find = partial(executions.listing_within, selection=selection, limit=filters.limit + 1)
        rows, last = await self.call(self.session.database.run, find)
        page, after = self._page(rows, filters.limit)
        return page, last if after is None else after

    def _page(self, rows: Sequence[Row], limit: int) -> tuple[Sequence[AsyncExecution], UUID | None]:
        page = [self.of_row(row) for row in rows[:limit]]
        return page, page[-1].id if len(rows) > limit else None

    def selection(self, principal: Principal, filters: Filters) -> Selection:
        """The executions that fit the filters and that this principal may see."""
        if filters.program is not None:
            principal.require_program(filters.program)
        if principal.tenant is not None and filters.tenant not in (None, principal.tenant):
            raise HttpRefusal(403, "not_allowed", f"{principal.name} sees tenant {principal.tenant!r} only")
        return Selection(
            program=filters.program,
            status=None if filters.status is None else filters.status.value,
            since=filters.since,
            batch_id=filters.batch,
            error=filters.error,
            metadata=filters.metadata or {},
            tenant=principal.tenant or filters.tenant,
            programs=None if principal.programs is None else sorted(principal.programs),
            before=filters.before,
        )

    def of_row(self, row: Row) -> AsyncExecution:
        """The execution in a row."""
        return AsyncExecution(self.session, row)

    async def cancel(self, principal: Principal, execution: AsyncExecution) -> None:
        """Cancel an execution, and read it again."""
        log.info("%s cancels execution %s", principal.name, execution.id)
        await self.call(self.session.control.cancel, execution.id, by=principal.name)
        await execution.refresh()

    async def retry(self, principal: Principal, execution: AsyncExecution) -> None:
        """Queue a failed or cancelled execution again, and read it again."""
        log.info("%s retries execution %s", principal.name, execution.id)
        await self.call(self.session.control.retry, execution.id, by=principal.name)
        forget_known()
        await execution.refresh()

    async def retry_failed(self, principal: Principal, selection: Selection) -> int:
        """Queue failed executions again. Returns how many."""
        log.info("%s retries failed executions: %s", principal.name, selection)
        retried = await self.call(self.session.control.retry_failed, selection, by=principal.name)
        forget_known()
        return retried

    async def approvals(
        self, principal: Principal, asked: CallSelection, *, limit: int
    ) -> tuple[Sequence[Approval], Place | None]:
        """Calls that wait for a decision, the oldest first, and the place to continue after; None after the last.

        Sealed arguments stay sealed, also where this gateway has the key.
        """
        if asked.program is not None:
            principal.require_program(asked.program)
        list_them = Approvals(self.session, Sealing()).pending
        found = await self.call(list_them, _seen_by(principal, asked), limit=limit + 1)
        page = found[:limit]
        last = page[-1] if len(found) > limit else None
        return page, None if last is None else Place(last.requested_at, last.execution_id, last.call_id)

    async def count_approvals(self, principal: Principal, *, most: int) -> int:
        """How many calls wait for a decision; it stops counting at ``most``."""
        count = partial(approvals.count, selection=_seen_by(principal, CallSelection()), most=most)
        return await self.call(self.session.database.run, count)

    async def decide(
        self, principal: Principal, execution: AsyncExecution, call_id: str, *, approved: bool, note: str | None,
        by: str | None = None,
    ) -> None:  # fmt: skip
        """Approve or reject a call that an execution waits to make, and read the execution again.

        Raises AlreadyDecided, ApprovalNotFound, ValidationError.
        """
        what = "approves" if approved else "rejects"
        log.info("%s %s call %s of execution %s", principal.name, what, call_id, execution.id)
        decide = Approvals(self.session).decide
        await self.call(decide, execution.id, call_id, approved=approved, note=note, by=_author(principal, by))
        await execution.refresh()

    async def give_feedback(
        self, principal: Principal, execution: AsyncExecution, *, by: str | None = None, **judgement: Any
    ) -> Feedback:
        """Append a judgement of an execution: see :meth:`dspex.Execution.feedback`."""
        log.info("%s gives feedback on execution %s", principal.name, execution.id)
        return await execution.feedback(**judgement, by=_author(principal, by))

    async def cancel_batch(self, principal: Principal, id: UUID) -> int:
        """Cancel the rest of a batch. Returns how many executions."""
        log.info("%s cancels batch %s", principal.name, id)
        return await self.call(self.session.control.cancel_batch, id, by=principal.name)

    async def pause(self, principal: Principal, program: str) -> None:
        """Begin no execution of a program until it is resumed."""
        principal.require_program(program)
        if principal.tenant is not None:
            principal.require_whole("pausing a program")
        log.info("%s pauses program %s", principal.name, program)
        await self.call(self.session.control.pause, program, reason=f"by {principal.name}", by=principal.name)

    async def resume(self, principal: Principal, program: str) -> None:
        """Begin executions of a paused program again."""
        principal.require_program(program)
        if principal.tenant is not None:
            principal.require_whole("resuming a program")
        log.info("%s resumes program %s", principal.name, program)
        await self.call(self.session.control.resume, program, by=principal.name)

    async def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The return value of a function that waits for nothing but the connections of ``session``."""
        return await self.session.driver.call(partial(work, *args, **kwargs))

    async def in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The return value of a function that computes for long, or blocks."""
        return await self.session.driver.block(partial(work, *args, **kwargs))


class StreamSlots:
    """Bounds how many streams are sent at a time, as each holds a connection."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0

    @contextmanager
    def take(self) -> Iterator[None]:
        """A slot for one stream. Raises HttpRefusal when there is none left."""
        self.require()
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, more: int) -> None:
        self.used += more
        gateway_metrics.streams_open(self.used)

    def require(self) -> None:
        """Raise HttpRefusal when no slot is left."""
        if self.used >= self.most:
            detail = f"{self.most} streams are sent already; poll the execution, or try again later"
            raise HttpRefusal(503, "too_many_streams", detail, headers={"Retry-After": "5"})


def _seen_by(principal: Principal, asked: CallSelection) -> CallSelection:
    """The calls of executions that this principal may see."""
    programs = None if principal.programs is None else sorted(principal.programs)
    return replace(asked, tenant=principal.tenant, programs=programs)


def _author(principal: Principal, by: str | None) -> str:
    """Who is recorded: the principal, and whom it names."""
    return f"{by} via {principal.name}" if by else principal.name


def gateway_of(request: Request) -> Gateway:
    """The gateway of the application that serves this request."""
    gateway: Gateway = request.app.state.gateway
    return gateway
