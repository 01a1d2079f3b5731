"""Export of audit trails to a file, page by page, and verification of a file without the database.

``.jsonl`` (or ``.jsonl.gz``): a header line, a line for each execution with its entries as they were hashed, and a
last line with the numbers of executions and entries and the digest over the heads of all trails. ``.parquet`` (needs
``dspex[parquet]``): a row for each entry, and the same totals in the metadata.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from dspex.errors import DspexError
from dspex.operations.audit.audit_files import FORMAT, Export, reader, writer
from dspex.store.audit_chain import Chain, Digest, Verdict, verify_chain
from dspex.store.database import Database
from dspex.store.operations import audit_pages, retention
from dspex.store.partitions import first_id

__all__ = ["Export", "chains", "chains_of", "export", "read", "retired_chains", "verify_file"]

PAGE_ROWS = 500


def chains(database: Database, since: datetime | None, until: datetime | None) -> Iterator[Chain]:
    """The trails of executions submitted in this period, in the order of their ids, whether or not retention removed
    the executions."""
    low, high = audit_pages.before(since), None if until is None else first_id(until)
    return heapq.merge(
        _kept_trails(database, low, high), _present(database, low, high), key=lambda chain: chain.execution_id
    )


def _kept_trails(database: Database, low: UUID, high: UUID | None) -> Iterator[Chain]:
    """The trails whose executions retention removed."""
    for period in database.run(retention.periods):
        kept = period.retired_at is not None and period.audit_retired_at is None
        if kept and period.high > low and (high is None or period.low < high):
            begin = max(low, UUID(int=period.low.int - 1))
            yield from retired_chains(database, begin, period.high if high is None else min(high, period.high))


def _present(database: Database, low: UUID, high: UUID | None) -> Iterator[Chain]:
    after: UUID | None = low
    while after is not None:
        page = database.run(partial(audit_pages.page, after=after, until=high, most=PAGE_ROWS))
        yield from page.chains
        after = page.last


def chains_of(database: Database, ids: Sequence[UUID]) -> list[Chain]:
    """The trails of these executions."""
    return database.run(partial(audit_pages.of, ids=ids))


def retired_chains(database: Database, after: UUID, until: UUID) -> Iterator[Chain]:
    """The trails of executions that retention removed."""
    last: UUID | None = after
    while last is not None:
        page = database.run(partial(audit_pages.retired_page, after=last, until=until, most=PAGE_ROWS))
        yield from page.chains
        last = page.last


def export(
    path: Path,
    found: Iterable[Chain],
    *,
    about: Mapping[str, Any],
    expected: str | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Export:
    """Write trails to a file. The file appears under its name only once it is complete.

    ``about`` (JSON) is stored in the file. ``expected`` is the digest that the file must have. ``on_progress`` is
    called with the number of trails written. Raises ConfigurationError for an unsupported extension, and DspexError if
    the file cannot be written or has another digest; an existing file is left as it is.
    """
    open_file = writer(path)
    unfinished = path.with_name(f".{path.name}.{uuid4().hex[:8]}")  # unique: another process may write the same file
    digest, entries = Digest(), 0
    try:
        with closing(open_file(unfinished, {"format": FORMAT, "exported_at": _now(), **about})) as file:
            for chain in found:
                file.add(chain)
                digest.add(chain.execution_id, chain.head_seq, chain.head_hash)
                entries += len(chain.entries)
                on_progress(digest.count)
            written = Export(digest.count, entries, digest.value.hex())
            file.end(written)
        if expected not in (None, written.digest):
            raise DspexError(
                f"{written.executions} trails were found, and their digest is not the recorded one",
                code="audit_not_whole",
            )
        _publish(unfinished, path)
    except OSError as error:
        raise DspexError(f"{str(path)!r} cannot be written: {error.strerror}", code="export_failed") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return written


def verify_file(path: Path) -> tuple[Export, Mapping[UUID, Verdict]]:
    """Recompute every hash chain in a file. Returns the totals of the file, and the broken trails.

    Raises DspexError if the file is not an export, or incomplete.
    """
    digest, entries, broken = Digest(), 0, {}
    claimed: Export | None = None
    for item in read(path):
        if isinstance(item, Export):
            claimed = item
            continue
        digest.add(item.execution_id, item.head_seq, item.head_hash)
        entries += len(item.entries)
        verdict = verify_chain(item)
        if not verdict:
            broken[item.execution_id] = verdict
    actual = Export(digest.count, entries, digest.value.hex())
    if claimed != actual:
        raise _unreadable(path, f"it declares {claimed}, but holds {actual}")
    return actual, broken


def read(path: Path) -> Iterator[Chain | Export]:
    """The trails of a file in order, and at the end its declared totals."""
    try:
        yield from reader(path)
    except FileNotFoundError:
        raise _unreadable(path, "there is no such file") from None
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, str(error)) from error


def _publish(unfinished: Path, path: Path) -> None:
    """Sync the file to disk before it gets its name, and before retention removes the exported trails."""
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)


def _unreadable(path: Path, why: str) -> DspexError:
    return DspexError(f"{str(path)!r} is not a complete export of audit trails: {why}", code="export_unreadable")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
