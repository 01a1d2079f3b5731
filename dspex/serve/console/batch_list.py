"""The list of batches: how far each of them is, as far as that can be counted at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from uuid import UUID

from dspex.client.batch import Progress
from dspex.serve.gateway import Gateway
from dspex.serve.known_of_ended import KnownOfEnded
from dspex.store.lifecycle import batches
from dspex.store.lifecycle.batches import ListedBatch
from dspex.store.partitions import moment

__all__ = ["SeenBatch", "seen_batches"]

#: How many rows of batches a list counts at a time: with more, it would take longer than a page may.
COUNTED_AT_ONCE = 150_000


@dataclass(frozen=True, slots=True)
class SeenBatch:
    """A batch in the list; its ``progress`` is None where counting it would take too long."""

    id: UUID
    program: str
    size: int
    progress: Progress | None

    @property
    def begun_at(self) -> datetime:
        return moment(self.id)


async def seen_batches(gateway: Gateway, *, before: UUID | None, limit: int) -> tuple[Sequence[SeenBatch], UUID | None]:
    """A page of batches, the newest first, and the id to continue before; None after the last page."""
    run = gateway.session.database.run
    read = partial(batches.listing, program=None, internal=False, most=limit + 1, before=before)
    found = await gateway.call(run, read)
    page = found[:limit]
    known = {each.id: progress for each in page if (progress := _KNOWN.get(each.id)) is not None}
    known |= await _counted(gateway, [each for each in page if each.id not in known])
    shown = [SeenBatch(*each, known.get(each.id)) for each in page]
    return shown, page[-1].id if len(found) > limit else None


_KNOWN = KnownOfEnded()


async def _counted(gateway: Gateway, found: Sequence[ListedBatch]) -> Mapping[UUID, Progress]:
    """The progress of as many of these batches as can be counted at once."""
    left, ids = COUNTED_AT_ONCE, []
    for each in found:
        if each.size <= left:
            left -= each.size
            ids.append(each.id)
    count = partial(batches.progress_of, batch_ids=ids, bundles=False)
    counted = {id: Progress.of(each) for id, each in (await gateway.call(gateway.session.database.run, count)).items()}
    for id, progress in counted.items():
        if progress.finished == progress.total:
            _KNOWN.keep(progress, id)
    return counted
