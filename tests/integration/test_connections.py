"""The connections to models: whose certificates are trusted, forks, cancellation, proxies."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from dspex.errors import ConfigurationError, ModelError
from dspex.program.program import Program
from dspex.signatures import signature
from tests.model_server import ModelServer, Step, application, model_server
from tests.recording import a_run, until
from workers.adapters.dspy.dspy_adapter import DspyAdapter

__all__ = ["model_server"]

QA = signature(":string question -> :string answer")
QUESTION = {"question": "What is the capital of France?"}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture(autouse=True)
def no_other_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "DSPEX_CA_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("variable", ["DSPEX_CA_FILE", "SSL_CERT_FILE"])
async def test_a_custom_authority_is_trusted_once_it_is_named(
    variable: str, authority: trustme.CA, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tls_server(authority, "localhost") as port:
        refused = await failure(f"https://localhost:{port}")
        assert (refused.code, refused.retryable) == ("provider_unavailable", False)
        assert "DSPEX_CA_FILE" in str(refused)
        monkeypatch.setenv(variable, ca_file)
        assert await ask(f"https://localhost:{port}")


async def test_a_certificate_for_another_host_is_refused(
    authority: trustme.CA, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPEX_CA_FILE", ca_file)
    async with tls_server(authority, "model.example") as port:
        for host in ("localhost", "127.0.0.1"):
            refused = await failure(f"https://{host}:{port}")
            assert (refused.code, refused.retryable) == ("provider_unavailable", False)
            assert "for another host name" in str(refused)


def test_a_file_without_a_certificate_is_a_wrong_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_CA_FILE", str(tmp_path / "nothing.pem"))
    with pytest.raises(ConfigurationError, match="DSPEX_CA_FILE"):
        DspyAdapter()
    (tmp_path / "nothing.pem").write_text("no certificate")
    with pytest.raises(ConfigurationError, match="DSPEX_CA_FILE"):
        DspyAdapter()


async def test_a_forked_child_opens_connections_of_its_own(model_server: ModelServer) -> None:
    """The parent's stays open and in use: shared by both, each would read the other's answers."""
    adapter = DspyAdapter()
    of = Program("qa", QA, model="openai/test", api_base=model_server.url)
    before = await adapter.execute(a_run(of, QUESTION))
    child = os.fork()
    if child == 0:
        os._exit(_in_the_child(adapter, of))
    status = await asyncio.to_thread(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status[1]) == 0
    assert await adapter.execute(a_run(of, QUESTION)) == before
    served = model_server.calls()
    assert (served["total"], served["connections"]) == (3, 2)
    await adapter.close()


async def test_cancelling_a_run_closes_its_connection(model_server: ModelServer) -> None:
    adapter = DspyAdapter()
    of = Program("qa", QA, model="openai/test", api_base=model_server.url)
    model_server.script(default=Step(fault="hang"))
    runs = [asyncio.create_task(adapter.execute(a_run(of, QUESTION))) for _ in range(20)]
    await until(lambda: model_server.calls()["running"] == 20)
    for run in runs:
        run.cancel()
    ended = await asyncio.gather(*runs, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended)
    await until(lambda: model_server.calls()["given_up"] == 20)
    model_server.script()
    await adapter.execute(a_run(of, QUESTION))
    await adapter.close()


async def test_a_proxy_comes_from_the_environment(model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", model_server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    assert await ask("http://model.invalid")


def _in_the_child(adapter: DspyAdapter, of: Program) -> int:
    """0 when the child is answered. The parent's loop is not running here, for all that asyncio knows."""
    asyncio._set_running_loop(None)
    try:
        return 0 if asyncio.run(adapter.execute(a_run(of, QUESTION))) else 1
    except BaseException as error:
        os.write(2, repr(error).encode())
        return 2


async def ask(address: str) -> object:
    adapter = DspyAdapter()
    try:
        of = Program("qa", QA, model="openai/test", api_base=address)
        return await adapter.execute(replace(a_run(of, QUESTION), deadline=0.0))
    finally:
        await adapter.close()


async def failure(address: str) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await ask(address)
    return caught.value


@asynccontextmanager
async def tls_server(authority: trustme.CA, host: str) -> AsyncIterator[int]:
    """A model server with a certificate for this host."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host).configure_cert(context)
    runner = web.AppRunner(application(), access_log=None, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
