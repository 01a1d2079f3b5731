"""The order of the lists of a queue: urgent ones first, and none for ever behind one that is full."""

from __future__ import annotations

import pytest

from workers.consume.turns import RUN, Turns

KEYS = [f"key {number}" for number in range(16)]


def served(turns: Turns, full: set[str], requests: int) -> list[str]:
    """The lists that reply to so many requests, when these never become empty."""
    return [next(key for key in turns.order(KEYS) if key in full) for _ in range(requests)]


def test_the_most_urgent_come_first() -> None:
    assert served(Turns(), set(KEYS), RUN) == [KEYS[0]] * RUN


@pytest.mark.parametrize("starved", KEYS)
def test_no_list_waits_for_ever_behind_full_ones(starved: str) -> None:
    assert starved in served(Turns(), set(KEYS), (RUN + 1) * len(KEYS))


def test_what_never_is_full_keeps_its_order() -> None:
    turns = Turns()
    for _ in range(10 * RUN):
        assert turns.order(KEYS)[0] == KEYS[0]
        turns.empty()


def test_a_key_of_another_type_is_not_read() -> None:
    turns = Turns()
    turns.left_out = frozenset(KEYS[:3])
    assert list(turns.order(KEYS)) == KEYS[3:]
    turns.left_out = frozenset(KEYS)
    assert list(turns.order(KEYS)) == KEYS
