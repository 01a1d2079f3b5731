"""Health as it is asked for: by client, command line, beat and HTTP; with backends that are away or hang."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

import dspex
from dspex.cli.main import cli
from dspex.client.client import Client
from dspex.embedded.ports import free_port
from dspex.operations.health.conditions import Condition
from dspex.settings import Backends, Settings
from dspex.store.database import Database
from dspex.store.operations import health
from tests.model_server import ModelServer, model_server
from tests.processes import WorkerProcess, command
from tests.waiting import wait_for
from workers.observe.health_check import check_and_record, health_check

__all__ = ["model_server"]

QA = dspex.signature("question -> answer")
HEALTHY, DEGRADED, UNHEALTHY, UNKNOWN = Condition
StartWorker = Callable[..., WorkerProcess]


class Http:
    """A worker's endpoints."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; the status is 0 while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except urllib.error.URLError:
            return 0, ""

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Every sample by its name and the values of its labels, in the order of their names."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        return {
            (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
            for family in families
            for sample in family.samples
        }


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    """The process and its children stand still, as under SIGSTOP."""
    all_of_it = [process, *process.children(recursive=True)]
    for each in all_of_it:
        each.suspend()
    try:
        yield
    finally:
        for each in all_of_it:
            each.resume()


def postgres_of(database: Database) -> psutil.Process:
    backend = psutil.Process(database.run(lambda connection: connection.scalar(text("SELECT pg_backend_pid()"))))
    postmaster = backend.parent()
    assert postmaster is not None
    return postmaster


def redis_of(backends: Backends) -> psutil.Process:
    with redis.Redis.from_url(backends.broker_url) as connection:
        return psutil.Process(connection.info("server")["process_id"])


def conditions(report: dspex.HealthReport) -> dict[str, Condition]:
    return {name: component.status for name, component in report.components.items()}


def test_a_worker_tells_over_http_what_it_did_and_how_it_is(
    client: Client, backends: Backends, database: Database, start_worker: StartWorker
) -> None:
    http = Http(free_port())
    start_worker(DSPEX_HTTP_PORT=http.port, DSPEX_LEASE_SECONDS=1)
    wait_for(lambda: http.get("/health/ready") == (200, "ok\n"), "the worker to be ready")
    assert http.get("/health/live") == (200, "ok\n")
    assert http.get("/elsewhere")[0] == 404
    report = json.loads(http.get("/health")[1])
    assert report["components"]["workers"]["details"]["count"] == 1
    assert report["components"]["models"]["status"] == "healthy"

    scripted = {"calls": 2, "cost_usd": 0.25}
    client.deploy(dspex.Program("good", QA, adapter="scripted", module_options=scripted))
    fails = {"fail": {"code": "authentication", "times": 9}}
    client.deploy(
        dspex.Program("bad", QA, adapter="scripted", retry=dspex.Retry(2, backoff=0.01), module_options=fails)
    )
    assert (
        len(list(client.submit_many("good", [{"question": str(n)} for n in range(20)]).as_completed(timeout=60))) == 20
    )
    client.execute("good", {"question": "?"}, timeout=60)
    bad = client.submit("bad", {"question": "?"})
    wait_for(lambda: bad.refresh().status.is_final, "the bad one to fail")
    expected = {
        ("dspex_attempts_total", "completed", "good"): 21,
        ("dspex_attempts_total", "retried", "bad"): 1,
        ("dspex_attempts_total", "failed", "bad"): 1,
        ("dspex_attempt_errors_total", "authentication"): 2,
        ("dspex_attempt_duration_seconds_count", "good"): 21,
        ("dspex_queue_time_seconds_count", "good"): 21,
        ("dspex_claims_total", "claimed"): 23,
        ("dspex_lm_calls_total", "scripted", "ok"): 42,
        ("dspex_lm_calls_total", "scripted", "authentication"): 2,
        ("dspex_lm_tokens_total", "prompt", "scripted"): 420,
        ("dspex_lm_cost_usd_total", "scripted"): 10.5,
        ("dspex_running",): 0,
        ("dspex_concurrency",): 200,
        ("dspex_pump_leader",): 1,
        ("dspex_worker_ready",): 1,
        ("dspex_backend_failures_total", "postgres"): 0,
    }
    wait_for(lambda: {name: http.metrics().get(name) for name in expected} == expected, "the metrics to say so")
    assert http.metrics()["dspex_process_resident_memory_bytes",] > 10 * 2**20

    client.pause("good")
    client.submit("good", {"question": "it waits"})
    wait_for(lambda: http.metrics().get(("dspex_queue_depth", "good")) == 1, "the leader to tell of the queue")
    assert http.metrics()["dspex_workers",] == 1

    before = client.health()
    assert before.components["postgres"].status is HEALTHY
    assert before.components["queue"].details["programs"]["good"]["paused"]
    with stopped(postgres_of(database)):
        wait_for(lambda: http.get("/health/ready")[0] == 503, "the worker not to be ready")
        assert "its lease was last renewed" in http.get("/health/ready")[1]
        assert http.get("/health/live") == (200, "ok\n"), "a restart would mend nothing"
        assert http.metrics()["dspex_lease_age_seconds",] > 1
        with (
            ThreadPoolExecutor(1) as other,
            Client(database_url=backends.database_url, broker_url=backends.broker_url) as fresh,
        ):
            asked = other.submit(http.get, "/health")
            found = conditions(fresh.health())
            assert asked.result()[0] == 503
        assert {name: found[name] for name in ("postgres", "workers", "redis", "type_system")} == {
            "postgres": UNHEALTHY, "workers": UNKNOWN, "redis": HEALTHY, "type_system": HEALTHY,
        }  # fmt: skip
    wait_for(lambda: http.get("/health/ready")[0] == 200, "the worker to be ready again")
    wait_for(lambda: client.health().components["workers"].status is HEALTHY, "the client to see it")
    with stopped(redis_of(backends)):
        wait_for(lambda: client.health().unreachable == ["redis"], "Redis to be missed")
        components = client.health().components
        assert components["redis"].fix
        assert components["workers"].status is HEALTHY


def test_a_worker_whose_loop_is_blocked_is_not_live_and_says_where(client: Client, start_worker: StartWorker) -> None:
    http = Http(free_port())
    blocked = start_worker(DSPEX_FAILPOINTS="after_claim=hang", DSPEX_WATCHDOG_SECONDS=8, DSPEX_HTTP_PORT=http.port)
    client.deploy(dspex.Program("qa", QA, adapter="scripted"))
    client.submit("qa", {"question": "?"})
    wait_for(lambda: http.get("/health/ready")[0] == 503, "it not to be ready")
    wait_for(lambda: http.get("/health/live")[0] == 503, "it not to be live")
    assert "failpoints.py" in http.get("/health/live")[1]
    assert http.metrics()["dspex_loop_blocked_seconds_total",] >= 1
    blocked.kill()


def test_an_execution_whose_worker_died_each_time_is_counted(client: Client, start_worker: StartWorker) -> None:
    http, options = Http(free_port()), {"sleep_ms": 600_000}
    for name, attempts in (("once", 1), ("twice", 2)):
        client.deploy(dspex.Program(name, QA, adapter="scripted", module_options=options, retry=dspex.Retry(attempts)))
    dies = start_worker(DSPEX_LEASE_SECONDS=1)
    once, twice = (client.submit(name, {"question": "?"}) for name in ("once", "twice"))
    wait_for(lambda: {once.refresh().status, twice.refresh().status} == {dspex.Status.RUNNING}, "both to run")
    dies.kill()
    start_worker(DSPEX_LEASE_SECONDS=1, DSPEX_HTTP_PORT=http.port)
    with pytest.raises(dspex.ExecutionFailed) as failed:
        once.result(timeout=60)
    assert failed.value.code == "poisoned"
    wait_for(lambda: http.metrics()["dspex_pump_recovered_total",] == 2, "both to be recovered")
    assert http.metrics()["dspex_pump_poisoned_total",] == 1
    assert not twice.refresh().status.is_final
    twice.cancel()


def test_beat_has_the_health_checked_and_recorded(
    client: Client, backends: Backends, database: Database, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker()
    assert client.health().components["beat"].status is DEGRADED
    settings = {"DSPEX_HEALTH_INTERVAL_SECONDS": "1", "OPENAI_API_KEY": "a-key-of-a-model"}
    with command(backends, tmp_path / "beat.log", "beat", forked=False, **settings) as beat:
        wait_for(lambda: database.run(health.latest), "a health record")
        if sys.platform == "linux":  # it calls no model
            assert "a-key-of-a-model" not in Path(f"/proc/{beat.pid}/environ").read_text()
        wait_for(lambda: client.health().healthy, "the client to see it")
        report, kept = client.health(), database.run(health.latest)
    assert kept is not None
    assert kept["overall"] == "healthy", kept["report"]
    assert kept["report"]["interval_seconds"] == 1
    assert report.components["models"].details["seen_by"].endswith(f":{worker.pid}")
    assert report.components["redis"].since == datetime.fromisoformat(kept["report"]["components"]["redis"]["since"])
    assert report.resources["process_count"] == 1
    assert report.resources["memory_bytes"] > 10 * 2**20
    shown = CliRunner().invoke(cli, ["health", "--json"], env=_environment(backends), standalone_mode=False)
    assert shown.return_value == (0 if json.loads(shown.stdout)["overall"] == "healthy" else 1)


@pytest.mark.parametrize("away", [("postgres",), ("redis",), ("postgres", "redis")])
def test_with_a_backend_away_it_says_so_and_exits_with_3(backends: Backends, away: tuple[str, ...]) -> None:
    port = free_port()
    urls = _environment(backends)
    if "postgres" in away:
        urls["DSPEX_DATABASE_URL"] = f"postgresql://user:hush@127.0.0.1:{port}/none"
    if "redis" in away:
        urls["DSPEX_BROKER_URL"] = f"redis://:hush@127.0.0.1:{port}/0"
    shown = CliRunner().invoke(cli, ["health"], env=urls, standalone_mode=False)
    assert shown.exception is None
    assert shown.return_value == 3
    for name, fix in (("postgres", "start Postgres"), ("redis", "start Redis")):
        assert (fix in shown.stdout) == (name in away)
    assert "hush" not in shown.stdout


def test_models_are_looked_at_from_where_they_are_called(
    client: Client, backends: Backends, monkeypatch: pytest.MonkeyPatch, model_server: ModelServer
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    address = model_server.api_base.rstrip("/")
    gone = f"http://127.0.0.1:{free_port()}/v1"
    programs: dict[str, dict[str, Any]] = {
        "here": {"model": "openai/here", "api_base": address},
        "gone": {"model": "openai/gone", "api_base": gone},
        "keyless": {"model": "openai/gpt-4o-mini"},
        "unset": {"model": "openai/unset", "api_base": address, "api_key_env": "NO_SUCH_KEY"},
    }
    for name, options in programs.items():
        client.deploy(dspex.Program(name, QA, adapter="direct", **options))
    settings = Settings.load(database_url=backends.database_url, broker_url=backends.broker_url)
    report = check_and_record(settings, health_check(settings), interval_seconds=15)
    models = {name.split()[1]: found for name, found in report.components.items() if name.startswith("model ")}
    assert {name: found.status for name, found in models.items()} == {
        "openai/here": HEALTHY, "openai/gone": UNHEALTHY, "openai/gpt-4o-mini": UNHEALTHY, "openai/unset": UNHEALTHY,
    }  # fmt: skip
    assert "out of reach" in models["openai/gone"].details["error"]
    assert "OPENAI_API_KEY is not set" in models["openai/gpt-4o-mini"].details["error"]
    assert "NO_SUCH_KEY is not set" in models["openai/unset"].details["error"]
    assert model_server.calls()["total"] == 0, "nothing is paid for"
    # A producer tells what the worker saw.
    told = client.health().components
    assert {name for name in told if name.startswith("model ")} == {n for n in report.components if n[:6] == "model "}


def _environment(backends: Backends) -> dict[str, str]:
    return {"DSPEX_DATABASE_URL": backends.database_url, "DSPEX_BROKER_URL": backends.broker_url}
