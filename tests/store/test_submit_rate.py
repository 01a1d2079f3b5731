"""How often a client may submit: exact over all that submit in its name, and with Redis away not much worse."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

import dspex
from dspex.client.client import Client
from dspex.publish.broker import Broker
from dspex.settings import Backends, Settings
from dspex.submit.rate_limit import SubmitRate
from tests.processes import start

NOW = 1_800_000_000_000
QA = dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted")
Make = Callable[..., SubmitRate]


def settings(backends: Backends, **changes: Any) -> Settings:
    urls = {"database_url": backends.database_url, "broker_url": backends.broker_url}
    limits = {"rate_limit_per_minute": 1000, "rate_limit_burst": 100, "client": "app"}
    return Settings.load(**{**urls, **limits, **changes})


@pytest.fixture
def make(backends: Backends) -> Iterator[Make]:
    """Counters as several processes have them."""
    with ExitStack() as holding:

        def made(**changes: Any) -> SubmitRate:
            of = settings(backends, **changes)
            assert of.broker_url is not None
            broker = Broker(of.broker_url.get_secret_value())
            holding.callback(broker.close)
            return SubmitRate(of, broker)

        yield made


def counted(rates: list[SubmitRate], tries: int, now_ms: int) -> int:
    with ThreadPoolExecutor(len(rates)) as threads:
        done = threads.map(lambda n: rates[n % len(rates)].early_ms(now_ms) == 0, range(tries))
        return sum(done)


def test_together_they_get_the_burst_and_then_the_rate_and_no_submit_more(make: Make) -> None:
    rates = [make() for _ in range(4)]
    assert counted(rates, 200, NOW) == 100
    assert rates[0].early_ms(NOW) == pytest.approx(60, abs=0.01)
    assert counted(rates, 20, NOW + 60) == 1  # one in each 60 ms
    assert counted(rates, 40, NOW + 60 + 600) == 10
    assert counted(rates, 200, NOW + 60_000) == 100  # a rest earns no more than the burst
    minute = sum(counted(rates[:1], 3, NOW + 60_000 + step) for step in range(600, 60_601, 600))
    assert minute <= 1000


def test_each_client_has_its_own_count(make: Make) -> None:
    mine, other = make(rate_limit_burst=1), make(rate_limit_burst=1, client="other")
    assert [rate.early_ms(NOW) for rate in (mine, other)] == [0, 0]
    assert mine.early_ms(NOW) > 0


def test_with_redis_away_each_process_keeps_the_same_figures(make: Make) -> None:
    rate = make(broker_url="redis://127.0.0.1:1/0")
    assert counted([rate], 150, NOW) == 100
    assert rate.early_ms(NOW) == pytest.approx(60)
    assert counted([rate], 5, NOW + 60) == 1


def test_without_a_limit_redis_is_not_asked(make: Make) -> None:
    rate = make(rate_limit_per_minute=None, broker_url="redis://127.0.0.1:1/0")
    for _ in range(1000):
        rate.take()
    assert rate._away_until == 0.0


def test_a_submit_too_many_is_refused_and_nothing_is_stored(backends: Backends) -> None:
    with Client(settings(backends, rate_limit_per_minute=1, rate_limit_burst=2)) as client:
        client.deploy(QA)
        client.submit("qa", {"question": "1"})
        with client._database.transaction() as connection:
            client.submit("qa", {"question": "2"}, connection=connection)  # the caller's transaction counts too
            with pytest.raises(dspex.RateLimited, match="nothing was stored") as refused:
                client.submit("qa", {"question": "3"}, connection=connection)
        assert refused.value.retryable
        assert 50 < refused.value.retry_after_seconds <= 60
        assert len(client.list()) == 2


def test_a_batch_waits_for_its_turn_instead_of_being_cut_short(backends: Backends) -> None:
    waits: list[float] = []
    with Client(settings(backends, rate_limit_per_minute=60, rate_limit_burst=1)) as client:
        client.deploy(QA)

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            time.sleep(seconds)

        rate = client._session.connections.rate
        rate.wait = partial(rate.wait, sleep)  # type: ignore[method-assign]
        batch = client.submit_many("qa", ({"question": str(n)} for n in range(2500)))
        assert len(batch) == 2500
        assert waits  # a second for each thousand rows, but for the first


def test_processes_of_one_name_share_the_count(backends: Backends, tmp_path: Path) -> None:
    script = (
        "import dspex, sys\n"
        "client, stored = dspex.Client(), 0\n"
        "for _ in range(12):\n"
        "    try: client.submit('qa', {'question': 'x'}); stored += 1\n"
        "    except dspex.RateLimited: pass\n"
        "print(stored)\n"
    )
    with Client(settings(backends)) as client:
        client.deploy(QA)
    environment = {
        "DSPEX_DATABASE_URL": backends.database_url, "DSPEX_BROKER_URL": backends.broker_url, "DSPEX_CLIENT": "app",
        "DSPEX_RATE_LIMIT_PER_MINUTE": "1", "DSPEX_RATE_LIMIT_BURST": "10", "PATH": "",
    }  # fmt: skip
    with ExitStack() as files:
        outputs = [files.enter_context((tmp_path / str(n)).open("w+b")) for n in range(2)]
        processes = [start("-c", script, environment=environment, output=output) for output in outputs]
        assert [process.wait(60) for process in processes] == [0, 0]
        assert sum(int(Path(output.name).read_text()) for output in outputs) == 10


@pytest.mark.parametrize(
    "command",
    ["SET dspex:rate:app x", "SET dspex:rate:app nan", "SET dspex:rate:app inf", "LPUSH dspex:rate:app x"],
)
def test_what_another_client_wrote_is_replaced(make: Make, backends: Backends, command: str) -> None:
    rate = make(rate_limit_burst=2)
    with redis.Redis.from_url(backends.broker_url) as other:
        other.execute_command(*command.split())
    waits = [rate.early_ms(NOW + moment) for moment in range(0, 240, 60)]
    assert waits[-1] == 0, "it waits no longer than a client that has used its burst"
    assert rate._away_until == 0, "Redis counts"


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_client_of_a_user_without_a_name_has_the_number(backends: Backends) -> None:
    """As in a container that runs as any user, on OpenShift for one."""
    script = (
        "import os, dspex\n"
        "with dspex.Client() as client: client.submit('qa', {'question': 'x'})\n"  # imports what the other may not read
        "os.setuid(54321)\n"
        "with dspex.Client() as client:\n"
        "    print(client.submit('qa', {'question': 'x'}).id)\n"
        "    try: client.submit('qa', {'question': 'x'})\n"
        "    except dspex.RateLimited as error: print(error)\n"
    )
    with Client(settings(backends)) as client:
        client.deploy(QA)
    environment = {
        "DSPEX_DATABASE_URL": backends.database_url, "DSPEX_BROKER_URL": backends.broker_url, "PATH": "",
        "DSPEX_RATE_LIMIT_PER_MINUTE": "1", "DSPEX_RATE_LIMIT_BURST": "1", "DSPEX_HOME": "/nonexistent",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "user 54321@" in done.stdout
