"""Histories under faults, checked from the clients' side alone: see tests/chaos/history.

``CHAOS_SEED`` repeats a run's choices and ``HISTORY_SECONDS`` sets how long the long one lasts. The seed is printed:
``pytest -rP`` shows it for a run that passed.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.guarantees import long
from tests.chaos.history.play import LONG, SHORT, Plan, play

SECONDS = float(os.environ.get("HISTORY_SECONDS") or LONG.seconds)


@pytest.mark.timeout(SECONDS + 900)
@pytest.mark.parametrize("plan", [SHORT, long(replace(LONG, seconds=SECONDS))], ids=["short", "long"])
def test_no_client_sees_a_promise_broken(plan: Plan, tmp_path: Path, fork_server: None) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))
    account = play(plan, seed, tmp_path)
    print(account)
    assert account.acknowledged
    assert account.faults
    assert not account.violations, f"CHAOS_SEED={seed}\n" + "\n".join(map(str, account.violations[:20]))
