"""The bundler: takes bundles of requests through providers' batch APIs, one step at a time.

Every step may be the last one of its process. What a step did is recorded after it, and the intention to create a batch
before it; so a step that is done again finds a file that was uploaded, a batch that was created and answers that were
journaled. dspex/store/lifecycle/bundles.py has the states.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from lm15.transports import TransportRequest
from uuid_utils.compat import uuid7

from dspex.errors import DspexError, EncryptionError, ModelError
from dspex.sealing.values import Sealing, is_sealed
from dspex.settings import Settings
from dspex.settings.failpoints import (
    AFTER_BUNDLE_ANSWERS,
    AFTER_BUNDLE_CREATED,
    AFTER_BUNDLE_INTENDED,
    AFTER_BUNDLE_SENT,
    AFTER_BUNDLE_STORED,
    AFTER_BUNDLE_UPLOADED,
    BETWEEN_BUNDLE_LINES,
    failpoint,
)
from dspex.store.database import Database
from dspex.store.lifecycle import budgets, bundles, parked
from dspex.store.lifecycle.bundles import BundledCall, StoredBundle
from dspex.store.lifecycle.lm_calls import BATCH, KEPT, LMCall
from dspex.store.lifecycle.parked import parked_place
from workers.attempt.settlement import stored_error
from workers.lm.bundles.anthropic_batches import AnthropicBatches
from workers.lm.bundles.batch_format import BatchFormat, BatchResult, Line, ProviderBatch
from workers.lm.bundles.batch_http import BatchHttp, BatchRefused, BatchUnreachable
from workers.lm.bundles.batch_target import BatchTarget
from workers.lm.bundles.captured_request import StoredReply, read_reply, wire_request
from workers.lm.bundles.gemini_batches import GeminiBatches
from workers.lm.bundles.openai_batches import OpenAIBatches
from workers.lm.connect.endpoint import Endpoint, Endpoints
from workers.lm.connect.http_transport import HttpTransport, last_request_id
from workers.lm.cost import batch_rates, cost_usd
from workers.lm.engine import UPSTREAM, read_answer
from workers.lm.model_calls import LATE
from workers.lm.model_errors import model_error
from workers.lm.replies.call_notes import CallNotes, current_notes

__all__ = ["Bundler"]

log = logging.getLogger("dspex.workers")

T = TypeVar("T")

FORMATS: Mapping[str, BatchFormat] = {
    "openai": OpenAIBatches(),
    "anthropic": AnthropicBatches(),
    "gemini": GeminiBatches(),
}
#: Requests that are read from Postgres at a time, and answers that are journaled in one transaction.
ROWS = 200
#: The longest pause between two looks at a batch, and by how much each pause is longer than the one before.
LONGEST_PAUSE_SECONDS, PAUSE_GROWTH = 300.0, 1.5
#: Results are read again so often when some are missing, or the provider does not know the batch.
MOST_READS = 3
#: The most characters of a provider's reason that are kept.
REASON_MOST = 300
#: How much the provider's clock may be behind Postgres'.
CLOCK_SECONDS = 60.0
#: After its time a batch is cancelled at the provider; what it has not answered so long after that is given up.
CANCEL_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the bundles of a target go: its endpoint, format and connection."""

    target: BatchTarget
    endpoint: Endpoint
    format: BatchFormat


class Bundler:
    """Belongs to one event loop. ``database`` is used in its thread: nothing else runs there."""

    def __init__(self, database: Database, endpoints: Endpoints, sealing: Sealing, settings: Settings) -> None:
        self._database = database
        self._endpoints = endpoints
        self._sealing = sealing
        self._transport = HttpTransport()
        self._fill_seconds = settings.batch_fill_seconds
        self._most_requests = settings.batch_requests
        self._most_bytes = settings.batch_bytes
        self._poll_seconds = settings.batch_poll_seconds
        self._settle_seconds = settings.batch_settle_seconds

    async def aclose(self) -> None:
        await self._endpoints.aclose()
        await self._transport.aclose()

    async def run_once(self, leads: Callable[[], bool]) -> None:
        """Do what is due, as long as this worker ``leads``. Raises BackendUnavailable."""
        self._stop_unneeded()
        self._assemble()
        for bundle in self._database.run(bundles.due):
            if not leads():
                return
            await self._advance(bundle)

    # ------------------------------------------------------------------------------------------------------- assemble

    def _assemble(self) -> None:
        """Make bundles of requests that have waited for others long enough, or that fill one."""
        for waiting in self._database.run(bundles.unbundled):
            target = BatchTarget.read(waiting.target)
            most = min(self._most_requests, FORMATS[target.format].most_requests)
            most_bytes = min(self._most_bytes, FORMATS[target.format].most_bytes)
            left = waiting.requests
            while left >= most or (left > 0 and waiting.oldest_seconds >= self._fill_seconds):
                id: UUID = uuid7()
                with self._database.transaction() as connection:
                    taken = bundles.assemble(connection, id, waiting.target, most=most, most_bytes=most_bytes)
                if not taken:
                    break
                log.info("bundle %s: %s requests for %s", id, taken, target.model)
                failpoint(AFTER_BUNDLE_STORED)
                left -= taken

    def _stop_unneeded(self) -> None:
        """Have the provider cancel batches whose executions are all final, and send those not that it does not have."""
        if ids := self._database.run(bundles.unneeded):
            self._database.run(partial(bundles.request_cancel, ids=ids))
        for bundle in self._database.run(bundles.unneeded_unsent):
            self._end(bundle, "no execution waits for it")

    # ---------------------------------------------------------------------------------------------------------- steps

    async def _advance(self, bundle: StoredBundle) -> None:
        """Do the next step of a bundle. One that fails is done again later."""
        try:
            place = await self._place(bundle)
            http = await self._http(place, bundle)
            await _STEPS[bundle.state](self, bundle, place, http)
        except BatchRefused as error:
            await self._refused(bundle, error)
        except BatchUnreachable as error:
            self._trouble(bundle, str(error))
        except DspexError as error:  # no key, or no such model, in this worker
            self._trouble(bundle, str(error))
        except UPSTREAM as error:  # a reply in an unknown form
            self._trouble(bundle, f"its reply cannot be read ({type(error).__name__})")

    async def _place(self, bundle: StoredBundle) -> _Place:
        target = BatchTarget.read(bundle.target)
        return _Place(target, await self._endpoints.of(target), FORMATS[target.format])

    async def _http(self, place: _Place, bundle: StoredBundle) -> BatchHttp:
        """The connection to the provider, with the headers of an ordinary call."""
        asked = {"model": place.target.model, "messages": [_QUESTION], "config": {"max_tokens": 1}}
        request = await wire_request(place.endpoint, asked)
        headers = await self._endpoints.headers(place.target.declared)
        return BatchHttp(self._transport, place.format.base(request), [*request.headers, *headers])

    async def _upload(self, bundle: StoredBundle, place: _Place, http: BatchHttp) -> None:
        """created → uploaded. A file that an earlier leader uploaded is found by its name."""
        file_id = None
        if place.format.has_files:
            name = str(bundle.id)
            file_id = await place.format.find_upload(http, name)
            if file_id is None:
                file_id = await place.format.upload(http, name, partial(self._lines, bundle, place))
                failpoint(AFTER_BUNDLE_UPLOADED)
        self._record(bundle, "uploaded", file_id=file_id)

    async def _create(self, bundle: StoredBundle, place: _Place, http: BatchHttp) -> None:
        """uploaded → creating → running."""
        if not place.format.has_names and self._database.run(partial(bundles.is_creating, target=bundle.target)):
            self._postpone(bundle, 1.0)  # of two batches without names, one could be taken for the other
            return
        asked_at = time.monotonic()
        if not self._record(bundle, "creating", seconds=self._settle_seconds):
            return
        intended = bundle._replace(state="creating")
        if time.monotonic() - asked_at > self._settle_seconds / 2:
            return  # the process was paused: another leader may be creating it
        failpoint(AFTER_BUNDLE_INTENDED)
        try:
            made = await place.format.create(http, str(bundle.id), bundle.file_id, partial(self._lines, bundle, place))
        except BatchRefused:
            self._record(intended, "uploaded")  # nothing was created
            raise
        failpoint(AFTER_BUNDLE_SENT)
        self._running(intended, made)
        failpoint(AFTER_BUNDLE_CREATED)

    async def _find_created(self, bundle: StoredBundle, place: _Place, http: BatchHttp) -> None:
        """creating → running, if the batch was created; else back, once it would show."""
        known = self._database.run(bundles.known_ids)
        async for state in place.format.created(http, str(bundle.id)):
            named = place.format.is_named(state, str(bundle.id))
            if named or (named is None and state.provider_id not in known and _fits(state, bundle)):
                self._running(bundle, state)
                return
        if (bundle.intended_seconds or 0.0) < self._settle_seconds:
            self._postpone(bundle, min(self._settle_seconds, 5.0))
        else:
            self._record(bundle, "uploaded")

    async def _look(self, bundle: StoredBundle, place: _Place, http: BatchHttp) -> None:
        """running → ended, once the provider is done with it."""
        state = await place.format.state(http, str(bundle.provider_id))
        if state.is_over:
            await self._read(bundle, place, http, state)
            return
        if bundle.is_expired and bundle.cancel_requested_at is None:
            self._database.run(partial(bundles.request_cancel, ids=[bundle.id]))
            await self._cancel(place, http, state)
        elif bundle.cancel_requested_at is not None and "cancel" not in state.state.lower():
            await self._cancel(place, http, state)
        pause = min(self._poll_seconds * PAUSE_GROWTH ** min(bundle.looks, 30), LONGEST_PAUSE_SECONDS)
        pause = self._poll_seconds if bundle.cancel_requested_at is not None else pause
        self._postpone(bundle, pause, state.state)
        if bundle.is_expired and (bundle.cancelling_seconds or 0.0) > CANCEL_SECONDS:
            self._end(bundle, "the provider did not end it in time")

    @staticmethod
    async def _cancel(place: _Place, http: BatchHttp, state: ProviderBatch) -> None:
        """A provider refuses to cancel a batch that ended meanwhile."""
        with suppress(BatchRefused):
            await place.format.cancel(http, state.provider_id)

    async def _read(self, bundle: StoredBundle, place: _Place, http: BatchHttp, state: ProviderBatch) -> None:
        """Journal the answers. What is missing is looked for again, and then given up."""
        chunk: list[BatchResult] = []
        is_whole = True
        async for result in place.format.results(http, state):
            if result is None:
                is_whole = False
                continue
            chunk.append(result)
            if len(chunk) == ROWS:
                await self._journal(bundle, place, chunk)
                chunk = []
        await self._journal(bundle, place, chunk)
        missing = self._database.run(partial(bundles.calls_of, id=bundle.id, most=1))
        if missing and bundle.reads < MOST_READS and (state.state in _COMPLETE or not is_whole):
            self._database.run(partial(bundles.note_read, id=bundle.id))
            self._trouble(bundle, "results are missing")
        else:
            reason = f": {state.reason[:REASON_MOST]}" if state.reason else ""
            self._end(bundle, f"the provider ended it as {state.state!r}{reason}")

    # --------------------------------------------------------------------------------------------------------- results

    async def _journal(self, bundle: StoredBundle, place: _Place, results: Sequence[BatchResult]) -> None:
        """Write answers to the journals, and have the attempts raise the errors of the others. Results of unknown
        requests, and second results of known ones, are left out."""
        named = {result.custom_id: result for result in reversed(results)}  # the first of each
        ids = {id for custom_id in named if (id := _execution_id(custom_id)) is not None}
        if not ids:
            return
        calls = self._database.run(partial(bundles.waiting_calls, id=bundle.id, execution_ids=ids))
        answers: list[LMCall] = []
        errors: list[tuple[UUID, bytes, int, str]] = []
        for call in calls:
            if (result := named.get(call.custom_id)) is None:
                continue
            try:
                answers.append(await self._answer(place, call, result))
            except ModelError as error:
                errors.append((call.execution_id, call.request_hash, call.occurrence, _stored(error, call)))
        self._write(bundle, answers, errors)
        failpoint(AFTER_BUNDLE_ANSWERS)

    def _write(
        self, bundle: StoredBundle, answers: Sequence[LMCall], errors: Sequence[tuple[UUID, bytes, int, str]]
    ) -> None:
        if not answers and not errors:
            return
        with self._database.transaction() as connection:
            taken = parked.answer(connection, answers)[0] if answers else set()
            if errors:
                parked.give_up_calls(connection, errors)
            paid = [each for each in answers if _key(each) in taken]
            costs = [(*_key(each), each.cost_usd or 0.0) for each in paid]
            budgets.charge_waits(connection, [*costs, *((*error[:3], 0.0) for error in errors)])
            bundles.note_answers(
                connection, bundle.id, answered=len(paid), failed=len(errors),
                cost_usd=sum(each.cost_usd or 0.0 for each in paid),
                list_cost_usd=sum(each.list_cost_usd or 0.0 for each in paid),
            )  # fmt: skip

    async def _answer(self, place: _Place, call: BundledCall, result: BatchResult) -> LMCall:
        """The answer to a request as a journal entry. Raises the ModelError that an ordinary call would raise."""
        if result.status == 0:
            raise ModelError(
                f"model {call.subject!r}: the provider's batch did not come to this request", code=LATE, retryable=True
            )
        endpoint = place.endpoint
        request, is_kept = self._request(call)
        notes = CallNotes()
        current_notes.set(notes)
        last_request_id.set(None)
        try:
            response = await read_reply(endpoint, request, StoredReply(result.status, result.body))
        except UPSTREAM as error:
            raise model_error(
                error, model=endpoint.model, address=endpoint.address, key_variable=place.target.api_key_env,
                longest_wait=endpoint.longest_wait,
            ) from None  # fmt: skip
        answer = await read_answer(endpoint, response, notes)
        rates = batch_rates(await endpoint.rates_of(response.model))
        made = LMCall(
            execution_id=call.execution_id,
            request_hash=call.request_hash,
            occurrence=call.occurrence,
            attempt=call.attempt,
            model=call.subject,
            response=json.dumps({**answer.response, BATCH: True}),
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            cost_usd=cost_usd(response, endpoint.route.provider, rates),
            duration_ms=0.0,
            request_id=answer.request_id,
            list_cost_usd=answer.cost_usd,
            request=json.dumps(request) if is_kept else None,
        )
        if not is_sealed(call.request):
            return made
        asked = made.request and self._sealing.seal_request(made.request, call.execution_id, made.place)
        answered = self._sealing.seal_call(made.response, call.execution_id, made.place)
        return replace(made, response=answered, request=asked)

    def _request(self, call: BundledCall) -> tuple[dict[str, Any], bool]:
        """The request of a call in lm15's canonical form, and whether it is kept with the answer.

        Raises EncryptionError without its key.
        """
        if self._sealing.keyring is None and is_sealed(call.request):
            raise EncryptionError("requests of a bundle are sealed, and DSPEX_ENCRYPTION_KEY is not set in this worker")
        context = f"{call.execution_id}:call:{parked_place(call.request_hash, call.occurrence)}"
        stored = self._sealing.open_whole(json.loads(call.request), context)
        is_kept = stored.pop(KEPT, False)
        return stored, is_kept

    async def _lines(self, bundle: StoredBundle, place: _Place) -> AsyncIterator[Line]:
        """The requests of a bundle whose executions still wait for them."""
        after = (UUID(int=0), b"", -1)
        while calls := self._database.run(partial(bundles.calls_of, id=bundle.id, after=after, most=ROWS)):
            for call in calls:
                if call.is_waiting and (request := await self._wire(bundle, place, call)) is not None:
                    yield Line(call.custom_id, request)
            failpoint(BETWEEN_BUNDLE_LINES)
            last = calls[-1]
            after = (last.execution_id, last.request_hash, last.occurrence)

    async def _wire(self, bundle: StoredBundle, place: _Place, call: BundledCall) -> TransportRequest | None:
        """The request that an ordinary call would send; None when it cannot be made: then the attempt raises why."""
        try:
            return await wire_request(place.endpoint, self._request(call)[0])
        except UPSTREAM as error:
            failure = model_error(error, model=place.endpoint.model, address=place.endpoint.address)
            self._write(bundle, [], [(call.execution_id, call.request_hash, call.occurrence, _stored(failure, call))])
            return None

    # ----------------------------------------------------------------------------------------------------------- ends

    async def _refused(self, bundle: StoredBundle, error: BatchRefused) -> None:
        """The provider refused a step: for good, so that its requests go another way, or for now. A batch that runs is
        given up only once the provider does not know it any more."""
        lost = bundle.state == "running" and error.status == 404
        if lost:
            self._database.run(partial(bundles.note_read, id=bundle.id))
        ends = bundle.reads >= MOST_READS if lost else error.is_final and bundle.state != "running"
        if ends or self._is_over_time(bundle):
            self._end(bundle, str(error))
        else:
            self._trouble(bundle, str(error))

    def _trouble(self, bundle: StoredBundle, why: str) -> None:
        """A step failed. A bundle whose time is over is given up, unless its batch may be running."""
        if self._is_over_time(bundle):
            self._end(bundle, why)
            return
        if bundle.trouble != why:
            log.warning("bundle %s (%s): %s; it is tried again", bundle.id, bundle.state, why)
        pause = min(self._poll_seconds * PAUSE_GROWTH ** min(bundle.looks, 30), LONGEST_PAUSE_SECONDS)
        self._database.run(partial(bundles.note_trouble, bundle=bundle, seconds=pause, trouble=why[:500]))

    def _end(self, bundle: StoredBundle, why: str) -> None:
        """running → ended, or any other state: what is not answered is given up."""
        count = 0
        while calls := self._database.run(partial(bundles.calls_of, id=bundle.id, most=ROWS)):
            error = ModelError(f"no answer came through the batch API: {why}", code=LATE, retryable=True)
            late = [(c.execution_id, c.request_hash, c.occurrence, stored_error(error)) for c in calls]
            with self._database.transaction() as connection:
                parked.release(connection, late)
                budgets.charge_waits(connection, [(*each[:3], 0.0) for each in late])
            count += len(calls)
        if count:
            log.warning("bundle %s: %s requests were not answered: %s", bundle.id, count, why)
            self._database.run(
                partial(bundles.note_answers, id=bundle.id, answered=0, failed=count, cost_usd=0.0, list_cost_usd=0.0)
            )
        self._record(bundle, "ended", provider_state=why[: REASON_MOST + 100])

    def _postpone(self, bundle: StoredBundle, seconds: float, provider_state: str | None = None) -> None:
        self._database.run(partial(bundles.postpone, bundle=bundle, seconds=seconds, provider_state=provider_state))

    def _running(self, bundle: StoredBundle, state: ProviderBatch) -> None:
        self._record(
            bundle, "running", provider_id=state.provider_id, provider_state=state.state, seconds=self._poll_seconds
        )

    def _record(self, bundle: StoredBundle, state: str, **values: Any) -> bool:
        return self._database.run(partial(bundles.advance, bundle=bundle, state=state, **values))

    def _is_over_time(self, bundle: StoredBundle) -> bool:
        """Whether it is past its time, and past the time in which the provider may still end it."""
        if not bundle.is_expired:
            return False
        return bundle.state in ("created", "uploaded") or (bundle.expired_seconds or 0.0) > CANCEL_SECONDS


#: How the providers call a batch whose requests were all answered.
_COMPLETE = frozenset({"completed", "ended", "SUCCEEDED"})
#: Asked of no model: its request shows the address and the headers.
_QUESTION = {"role": "user", "parts": [{"type": "text", "text": "?"}]}
_STEPS = {
    "created": Bundler._upload,
    "uploaded": Bundler._create,
    "creating": Bundler._find_created,
    "running": Bundler._look,
}


def _key(call: LMCall) -> tuple[UUID, bytes, int]:
    return call.execution_id, call.request_hash, call.occurrence


def _fits(state: ProviderBatch, bundle: StoredBundle) -> bool:
    """Whether a batch without a name may be this bundle: its size fits, and it was created after the intention."""
    counts = state.body.get("request_counts") or {}
    total = sum(value for value in counts.values() if isinstance(value, int))
    created_at = str(state.body.get("created_at", ""))
    earliest = bundle.intended_at and bundle.intended_at.astimezone(UTC) - timedelta(seconds=CLOCK_SECONDS)
    intended_at = earliest.strftime("%Y-%m-%dT%H:%M:%S") if earliest else ""
    return 0 < total <= bundle.requests and created_at[:19] >= intended_at


def _execution_id(custom_id: str) -> UUID | None:
    """The execution that a request belongs to; None for a name that is not one of DSPex's."""
    try:
        return UUID(custom_id.partition("-")[0])
    except ValueError:
        return None


def _stored(error: ModelError, call: BundledCall) -> str:
    """The error for the attempt that asks again. Its text may quote an input, and is left out if inputs are sealed."""
    if is_sealed(call.request):
        error = ModelError(f"the provider's batch returned {error.code}", code=error.code, retryable=error.retryable)
    return stored_error(error)
