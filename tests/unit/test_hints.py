"""Waits for what was just submitted: a hint that came first is remembered, and a look-up is spared only then."""

from __future__ import annotations

import time
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from dspex.wait import hints
from dspex.wait.hints import Hints, Watches


class Silent(Watches):
    """Listens to nothing; the test brings the messages."""

    def _begin(self) -> None:
        pass


@pytest.fixture
def watches() -> Silent:
    watches = Silent()
    watches._take("subscribe", 1)
    return watches


def done(watches: Watches, *ids: UUID) -> None:
    watches._take("message", " ".join(map(str, ids)).encode())


def first(watches: Watches, id: UUID, since: float | None) -> Hints:
    """The first hints of a watch that begins now."""
    with watches.watch([id], lambda: None, since=since) as watch:
        return watch.take()


def test_a_hint_before_the_wait_is_remembered(watches: Silent) -> None:
    submitted, ended, other = time.monotonic(), uuid7(), uuid7()
    done(watches, ended)
    assert first(watches, ended, submitted) == ([ended], False)
    assert first(watches, other, submitted) == ([], False)


def test_a_wait_that_hints_may_have_missed_begins_with_a_look_up(watches: Silent) -> None:
    id = uuid7()
    assert first(watches, id, None).stale, "it may have ended at any time"
    before = time.monotonic()
    watches._take("subscribe", 1)
    assert first(watches, id, before).stale, "it was submitted before the subscription"
    assert not first(watches, id, time.monotonic()).stale
    watches._lose(OSError())
    assert first(watches, id, time.monotonic()).stale, "nobody listens"


def test_what_is_forgotten_is_looked_up(watches: Silent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "REMEMBERED_MOST", 2)
    submitted, ids = time.monotonic(), [uuid7() for _ in range(4)]
    done(watches, ids[0], ids[1])
    done(watches, ids[2])
    assert first(watches, ids[0], submitted).stale
    submitted = time.monotonic()
    done(watches, ids[3])
    assert first(watches, ids[3], submitted) == ([ids[3]], False)
