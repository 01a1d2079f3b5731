"""A version that a worker could not run is tried again: what kept it from running may have passed."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import pytest
from uuid_utils.compat import uuid7

import dspex
from dspex.sealing.values import Sealing
from dspex.settings import Backends, Settings
from dspex.store import programs
from dspex.store.database import Database
from tests.recording import until
from tests.store.test_executions import PROGRAM
from workers.adapters import Adapters
from workers.adapters.unrunnable import UnrunnablePrograms
from workers.attempt import host
from workers.attempt.host import Host
from workers.attempt.ledger import Ledger


async def test_a_version_is_run_again_once_nothing_keeps_it_from_running(
    backends: Backends, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "RETRY_SECONDS", 0.01)
    database.run(partial(programs.deploy, program=PROGRAM))
    lacking = dspex.Program("lacking", PROGRAM.signature, adapter="scripted", actions=["nowhere_at_all:note"])
    monkeypatch.setenv("DSPEX_PROGRAM_PACKAGES", "nowhere_at_all")
    database.run(partial(programs.deploy, program=lacking))
    unrunnable = UnrunnablePrograms()
    ledger = Ledger(backends.database_url, backends.broker_url, uuid7, unrunnable)
    made = Host(ledger, Adapters(), cast("Any", None), Sealing.of(Settings.load()), unrunnable)
    await made.prepare(database.run(programs.deployed))
    assert [each.program for each in unrunnable.versions] == ["lacking"]
    for name in ("qa", "gone"):
        unrunnable.add(name, PROGRAM.version, dspex.ProgramUnreadable("a server was away"))
    made.start()
    try:
        await until(lambda: len(unrunnable.versions) == 1)
        assert [each.program for each in unrunnable.versions] == ["lacking"]
    finally:
        await made.close()
        await ledger.close()
