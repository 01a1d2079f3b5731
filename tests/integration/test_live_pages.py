"""Open pages of the console in a browser: what they show stays true, or they say that it may not be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import dspex
from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.serve.access.access_keys import AccessKeys
from dspex.settings import Backends
from tests.browser import chromium
from tests.conftest import fresh_backends
from tests.serving import serving
from tests.waiting import wait_for

OFFLINE = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
ONLINE = {**OFFLINE, "offline": False, "downloadThroughput": -1, "uploadThroughput": -1}


@pytest.fixture(scope="module")
def backends(servers: EmbeddedServers) -> Iterator[Backends]:
    """Backends without a worker: what is submitted stays queued."""
    with fresh_backends(servers) as made:
        yield made


@pytest.fixture(scope="module")
def client(backends: Backends) -> Iterator[Client]:
    with Client(database_url=backends.database_url, broker_url=backends.broker_url) as opened:
        opened.deploy(dspex.Program("asked", dspex.signature("question -> answer"), adapter="scripted"))
        yield opened


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def test_an_execution_whose_events_are_refused_is_followed_again(
    backends: Backends, client: Client, browser: Any
) -> None:
    first, second = (client.submit("asked", {"question": "?"}) for _ in range(2))
    with serving(backends, serve_max_streams=1) as served:
        with served.http.stream("GET", f"/executions/{first.id}/live") as held:
            assert held.status_code == 200
            browser.get(f"{served.url}/executions/{second.id}")
            wait_for(lambda: any("503" in line["message"] for line in browser.get_log("browser")), "a refusal")
        second.cancel()
        wait_for(lambda: "cancelled" in text_of(browser, "main h1"), "the page to show its end")


def test_a_page_that_cannot_be_loaded_again_says_so(backends: Backends, client: Client, browser: Any) -> None:
    waits = client.submit("asked", {"question": "?"})
    with serving(backends) as served:
        browser.get(f"{served.url}/?q=asked")
        browser.execute_cdp_cmd("Network.enable", {})
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", OFFLINE)
        wait_for(lambda: "may be old" in text_of(browser, "main [role=status]"), "the page to say that it is old")
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", ONLINE)
        wait_for(lambda: not text_of(browser, "main [role=status]"), "the page to be current again")
    waits.cancel()


def test_an_open_page_asks_for_a_key_once_its_session_has_ended(
    backends: Backends, client: Client, browser: Any
) -> None:
    waits = client.submit("asked", {"question": "?"})
    with serving(backends, is_open=False) as served:
        keys = AccessKeys(client._session.database)
        _, key = keys.create("reader", scopes=["read"])
        browser.get(f"{served.url}/?program=asked&status=queued")
        browser.find_element("css selector", "[name=key]").send_keys(f"{key}\n")
        wait_for(lambda: str(waits.id)[-8:] in text_of(browser, "main"), "the list")
        assert browser.current_url == f"{served.url}/?program=asked&status=queued", "what was asked for is shown"
        assert keys.revoke("reader")
        wait_for(lambda: "Sign in" in text_of(browser, "main h1"), "the form for a key")
    waits.cancel()


def text_of(browser: Any, selector: str) -> str:
    """The text of the first element that fits; empty without one."""
    script = "const part = document.querySelector(arguments[0]); return part ? part.textContent : ''"
    found: str = browser.execute_script(script, selector)
    return found
