"""What the monitor does with a process that dies, does not start, or takes its time."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from dspex.embedded import process_monitor
from dspex.embedded.process_monitor import ProcessFailed, ProcessMonitor
from dspex.embedded.restarts import LONGEST_DELAY_SECONDS, STEADY_SECONDS, Restarts
from dspex.embedded.stack_progress import StackStep, StepState
from dspex.errors import BackendUnavailable


class Lamp:
    """It runs from begin() until it is put out."""

    name = "lamp"
    address = "127.0.0.1:1"

    def __init__(self, *, refusals: int = 0, looks: int = 0) -> None:
        self.running = False
        self.begun = 0
        self.refusals = refusals
        self.looks = looks

    def begin(self) -> None:
        self.begun += 1
        if self.begun <= self.refusals:
            raise BackendUnavailable("no oil")
        self.running = True

    def ready(self) -> bool:
        self.looks -= 1
        return self.looks < 0

    def stop(self) -> None:
        self.running = False

    def evidence(self) -> str:
        return "the wind"


@pytest.fixture
def events() -> list[StackStep]:
    return []


@pytest.fixture
def monitor(events: list[StackStep], monkeypatch: pytest.MonkeyPatch) -> ProcessMonitor:
    monkeypatch.setattr(process_monitor, "_FIRST_DELAY_SECONDS", 0.001)
    monkeypatch.setattr(process_monitor, "_CHECK_SECONDS", 0.001)
    return ProcessMonitor(events.append)


def states(events: list[StackStep]) -> list[StepState]:
    return [event.state for event in events]


def check_until(monitor: ProcessMonitor, condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(5_000):
        if condition():
            return
        monitor.check()
        pause.wait(0.001)
    pytest.fail("the condition was never met")


def test_a_process_becomes_ready_when_its_check_passes(monitor: ProcessMonitor, events: list[StackStep]) -> None:
    monitor.launch(Lamp(looks=3))
    monitor.await_ready(timeout=60)
    assert states(events) == [StepState.STARTING, StepState.READY]
    assert events[-1].address == "127.0.0.1:1"


def test_what_dies_is_started_again(monitor: ProcessMonitor, events: list[StackStep]) -> None:
    lamp = Lamp()
    monitor.launch(lamp)
    monitor.await_ready(timeout=60)
    lamp.running = False
    check_until(monitor, lambda: states(events).count(StepState.READY) == 2)
    assert states(events) == [
        StepState.STARTING,
        StepState.READY,
        StepState.FAILED,
        StepState.STARTING,
        StepState.READY,
    ]
    assert "the wind" in events[2].detail
    assert "started again" in events[2].detail


def test_what_does_not_start_is_tried_again(monitor: ProcessMonitor, events: list[StackStep]) -> None:
    lamp = Lamp(refusals=4)
    monitor.launch(lamp)
    check_until(monitor, lambda: lamp.running)
    assert lamp.begun == 5
    delays = [event.detail.rpartition(" in ")[2] for event in events if event.state is StepState.FAILED]
    assert len(delays) == 4


def test_delays_double_up_to_a_limit_and_begin_anew_after_a_minute() -> None:
    restarts = Restarts(first_delay_seconds=0.2)
    delays = [restarts.next_delay(ready_seconds=STEADY_SECONDS - 1) for _ in range(11)]
    assert delays[:4] == [0.2, 0.4, 0.8, 1.6]
    assert delays[-1] == LONGEST_DELAY_SECONDS
    assert restarts.next_delay(ready_seconds=STEADY_SECONDS) == 0.2


def test_a_first_start_that_fails_is_an_error(monitor: ProcessMonitor) -> None:
    lamp = Lamp(looks=10**9)
    monitor.launch(lamp)
    lamp.running = False
    with pytest.raises(ProcessFailed, match="the wind"):
        monitor.await_ready(timeout=60)


def test_a_first_start_that_takes_too_long_is_an_error(monitor: ProcessMonitor) -> None:
    monitor.launch(Lamp(looks=10**9))
    with pytest.raises(ProcessFailed, match="not ready after 0 s: lamp"):
        monitor.await_ready(timeout=0)


def test_it_watches_from_a_thread_of_its_own_until_stopped(monitor: ProcessMonitor, events: list[StackStep]) -> None:
    ready_again = threading.Event()

    def note(event: StackStep) -> None:
        events.append(event)
        if states(events).count(StepState.READY) == 2:
            ready_again.set()

    monitor._report = note
    lamp = Lamp()
    monitor.launch(lamp)
    monitor.await_ready(timeout=60)
    monitor.start()
    lamp.running = False
    assert ready_again.wait(60)
    monitor.stop()
    lamp.running = False
    assert lamp.begun == 2
