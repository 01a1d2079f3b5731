"""Anchors: digests over the ends of all trails, to be kept where the owner of the database cannot change them.

The owner of the schema can rewrite an execution and its whole trail, so that it verifies again. An anchor that was made
before shows it: the digests of today's trails, as they were then, no longer match the anchor.

An anchor has a digest for each day of submission. It covers the executions that were final for a while when it was
made: what happens to them later is added to their trails, and leaves what the anchor covers as it was.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from dspex.errors import DspexError
from dspex.operations.audit import audit_export
from dspex.operations.posting import TIMEOUT_SECONDS, opener
from dspex.store.audit_chain import Chain, Digest, Entry
from dspex.store.database import Database
from dspex.store.facts import server_facts
from dspex.store.lifecycle.trail_order import last_status
from dspex.store.operations import retention
from dspex.store.partitions import first_id

__all__ = ["Anchor", "Comparison", "append", "compare", "make", "read", "send"]

FORMAT = "dspex-anchor-1"
#: An entry has the time at which its transaction began, so one that is written later than this is taken for a forgery.
SETTLED_SECONDS = 60
_EPOCH = date(1970, 1, 1)
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class DayDigest:
    """How many executions of a day an anchor covers, and the digest over the ends of their trails."""

    executions: int
    digest: str


@dataclass(frozen=True, slots=True)
class Anchor:
    """The digests by day of submission, of executions that were final before ``before``."""

    made_at: datetime
    before: datetime
    days: Mapping[str, DayDigest]

    @property
    def executions(self) -> int:
        return sum(day.executions for day in self.days.values())

    @property
    def digest(self) -> str:
        """One digest over all days."""
        lines = [f"{name} {day.executions} {day.digest}\n" for name, day in sorted(self.days.items())]
        return hashlib.sha256("".join([f"{self.before.isoformat()}\n", *lines]).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "made_at": self.made_at.isoformat(),
            "before": self.before.isoformat(),
            "executions": self.executions,
            "digest": self.digest,
            "days": {name: [day.executions, day.digest] for name, day in sorted(self.days.items())},
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """An anchor beside the trails of today. ``differs`` and ``unknown`` say it for each day that is not as it was."""

    anchor: Anchor
    as_anchored: int
    differs: Sequence[str]
    unknown: Sequence[str]


def make(database: Database, *, on_progress: Callable[[int], None] = lambda _: None) -> Anchor:
    """An anchor of all trails. It reads every trail. Raises BackendUnavailable."""
    now = database.run(server_facts.now).astimezone(UTC)
    before = now - timedelta(seconds=SETTLED_SECONDS)
    (days,) = _digests(database, [before], on_progress)
    return Anchor(now, before, days)


def compare(
    database: Database, anchors: Sequence[Anchor], *, on_progress: Callable[[int], None] = lambda _: None
) -> list[Comparison]:
    """Compare each anchor with the trails of today, as they were when it was made. Raises BackendUnavailable."""
    floor = database.run(lambda connection: retention.floor(connection, audit=True))
    found = _digests(database, [anchor.before for anchor in anchors], on_progress)
    return [_comparison(anchor, days, floor) for anchor, days in zip(anchors, found, strict=True)]


def append(path: Path, anchor: Anchor) -> None:
    """Add an anchor to a file of them, as a line. Raises DspexError when the file cannot be written."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(anchor.as_dict()) + "\n")
    except OSError as error:
        raise DspexError(f"{str(path)!r} cannot be written: {error.strerror}", code="export_failed") from error


def send(url: str, anchor: Anchor, ca_file: Path | None) -> None:
    """POST an anchor as JSON. Raises DspexError, without the URL, unless the response is a 2xx."""
    body, headers = json.dumps(anchor.as_dict()).encode(), {"Content-Type": "application/json", "User-Agent": "dspex"}
    try:
        request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310
        opener(ca_file).open(request, timeout=TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()
        raise _not_sent(url, f"it responded with {error.code}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _not_sent(url, str(error)) from None


def _not_sent(url: str, why: str) -> DspexError:
    return DspexError(f"the anchor could not be sent to {urlsplit(url).hostname}: {why}", code="export_failed")


def read(path: Path) -> list[Anchor]:
    """The anchors of a file. Raises DspexError for a file that has none, or a damaged one."""
    try:
        anchors = [_anchor(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path, str(error)) from error
    if not anchors:
        raise _unreadable(path, "it is empty")
    return anchors


def _anchor(line: Mapping[str, Any]) -> Anchor:
    if line.get("format") != FORMAT:
        raise ValueError(f"a line does not declare the format {FORMAT}")
    days = {name: DayDigest(int(count), str(digest)) for name, (count, digest) in line["days"].items()}
    anchor = Anchor(datetime.fromisoformat(line["made_at"]), datetime.fromisoformat(line["before"]), days)
    if (anchor.executions, anchor.digest) != (line["executions"], line["digest"]):
        raise ValueError(f"the anchor of {line['made_at']} was changed: its digest is not the one of its days")
    return anchor


def _unreadable(path: Path, why: str) -> DspexError:
    return DspexError(f"{str(path)!r} is not a file of anchors: {why}", code="export_unreadable")


def _digests(
    database: Database, moments: Sequence[datetime], on_progress: Callable[[int], None]
) -> list[dict[str, DayDigest]]:
    """For each moment, the digests by day over the ends that trails had then."""
    digests: list[defaultdict[str, Digest]] = [defaultdict(Digest) for _ in moments]
    for done, chain in enumerate(audit_export.chains(database, None, None), 1):
        for before, days in zip(moments, digests, strict=True):
            end = _end(chain, before)
            if end is not None:
                days[_day(chain.execution_id)].add(chain.execution_id, end.seq, end.hash)
        on_progress(done)
    return [{name: DayDigest(digest.count, digest.value.hex()) for name, digest in days.items()} for days in digests]


def _end(chain: Chain, before: datetime) -> Entry | None:
    """The last entry before a moment; None when the execution was not final then."""
    entries = list(takewhile(lambda entry: entry.at < before, chain.entries))
    status = last_status(entry.events for entry in reversed(entries))
    return entries[-1] if status is not None and status.is_final else None


def _day(id: UUID) -> str:
    days = (id.int >> 80) // _DAY_MS
    try:
        return (_EPOCH + timedelta(days=days)).isoformat()
    except OverflowError:  # an id that a client made up
        return f"day {days}"


def _comparison(anchor: Anchor, found: Mapping[str, DayDigest], floor: UUID | None) -> Comparison:
    same, differs, unknown = 0, [], []
    for name in sorted({*anchor.days, *found}):
        then, now = (days.get(name, DayDigest(0, "")) for days in (anchor.days, found))
        if then == now:
            same += then.executions
        elif now.executions < then.executions and _is_removed(name, floor):
            unknown.append(
                f"{name}: {then.executions} executions were anchored, {now.executions} trails are left: retention "
                "removed the others"
            )
        else:
            differs.append(f"{name}: {_difference(then, now)}")
    return Comparison(anchor, same, differs, unknown)


def _difference(then: DayDigest, now: DayDigest) -> str:
    if then.executions != now.executions:
        return f"{then.executions} executions were anchored, there are {now.executions}"
    return f"the trails of its {then.executions} executions are not those that were anchored"


def _is_removed(day: str, floor: UUID | None) -> bool:
    """Whether retention removed trails of this day."""
    if floor is None or day.startswith("day"):
        return False
    return first_id(datetime.fromisoformat(day).replace(tzinfo=UTC)) < floor
