"""The leader's observation of heartbeats, of Postgres' clock and of the lead, at given times of its monotonic clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from dspex.store.workers import Heartbeat, Lead
from workers.process.leader.observation import ClockWatch, HeartbeatWatch, LeadWatch

A, B = uuid4(), uuid4()
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def beat(id: UUID, seconds: float, lease_seconds: float = 5.0) -> Heartbeat:
    return Heartbeat(id, at(seconds), lease_seconds)


def dead(watch: HeartbeatWatch, now: float) -> list[UUID]:
    return [each.worker_id for each in watch.silent(now)]


def test_a_worker_is_dead_once_no_new_heartbeat_was_seen_for_its_lease() -> None:
    watch = HeartbeatWatch()
    for now in range(6):
        watch.note([beat(A, now), beat(B, 0)], now)
        assert dead(watch, now) == ([B] if now >= 5 else [])
    assert watch.beating(5) == [A]


def test_a_step_of_the_clock_makes_no_worker_dead() -> None:
    watch = HeartbeatWatch()
    watch.note([beat(A, -3600)], 0)  # however old it seems
    watch.note([beat(A, 60)], 1)
    watch.note([beat(A, -20)], 2)  # set forward, set back
    watch.note([beat(A, -20)], 4)
    assert dead(watch, 4) == []
    watch.note([beat(A, -20)], 6)
    watch.note([beat(A, -20)], 7)
    assert dead(watch, 7) == [A]


def test_a_leader_that_slept_begins_to_count_anew() -> None:
    watch = HeartbeatWatch()
    for now in (0, 1, 2, 3):
        watch.note([beat(A, 0)], now)
    watch.note([beat(A, 0)], 10_000)  # the worker may have slept as well
    assert dead(watch, 10_000) == []
    for now in range(10_001, 10_006):
        watch.note([beat(A, 0)], now)
    assert dead(watch, 10_005) == [A]


def test_a_leader_that_is_new_begins_to_count_anew() -> None:
    watch = HeartbeatWatch()
    for now in range(5):
        watch.note([beat(A, 0)], now)
    watch.forget()
    watch.note([beat(A, 0)], 5)
    assert dead(watch, 5) == []


def test_the_next_look_comes_in_time_for_short_leases_and_when_one_may_end() -> None:
    watch = HeartbeatWatch()
    assert watch.pause_seconds(0) == 1.0
    watch.note([beat(A, 0)], 0)
    assert watch.pause_seconds(0) == 1.0
    assert watch.pause_seconds(4.75) == 0.25
    watch.note([beat(A, 0), beat(B, 0, lease_seconds=1.0)], 1)
    assert watch.pause_seconds(1) == 0.25


def test_a_clock_is_trusted_from_when_it_was_last_set() -> None:
    clock = ClockWatch()
    clock.note(at(100), 0.0, 0.2)
    clock.note(at(110), 10.0, 10.2)
    assert clock.since == at(100)
    assert clock.seconds(10.2) == 10.0
    for step in (60, -20):
        clock.note(at(120 + step), 20.0, 20.2)
        assert clock.since == at(120 + step)
        assert clock.seconds(25.2) == 5.0


def test_a_slow_answer_is_no_step() -> None:
    clock = ClockWatch()
    clock.note(at(0), 0.0, 0.0)
    clock.note(at(10), 1.0, 19.0)  # it was asked at 1 and answered at 19
    clock.note(at(20), 20.0, 20.0)
    assert clock.since == at(0)


def test_a_lead_is_silent_once_it_was_not_renewed_for_a_while() -> None:
    watch = LeadWatch()
    for now in (0, 1):
        assert watch.silent(now, seconds=2.0) is None
        watch.note(Lead(A, at(2), shown=at(now)), now)
    silent = watch.silent(2, seconds=2.0)
    assert silent is not None
    assert silent[:2] == (A, at(2))
    watch.note(Lead(A, at(-20), shown=at(-22)), 2)  # renewed, by a clock that was set back
    assert watch.silent(3, seconds=2.0) is None
