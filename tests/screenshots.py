"""Pictures of every page of the console, for people who look at it: ``python -m tests.screenshots FOLDER [DOCS]``.

Each page with a little data, at 1400 and 390 pixels, light and dark; the pages without any data; and lists with much.
The folder DOCS gets one picture of each page, for the documentation.
"""

from __future__ import annotations

import base64
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import text

import dspex
from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from tests.browser import chromium
from tests.conftest import fresh_backends
from tests.homes import RUN_DIRECTORY, migrated_servers
from tests.improvement_data import finished_job
from tests.processes import WorkerProcess
from tests.serving import serving
from tests.waiting import wait_for

WIDTHS = (1400, 390)
#: The part of a long page that is taken.
TALLEST = 2600
THEMES = ("light", "dark")
TRIAGE = dspex.signature(
    'signature triage "Route a support ticket to the team that can answer it": '
    ':string ticket "the customer\'s message", :enum("low", "normal", "high") urgency = "normal", '
    ':integer(min=1, max=10) max_words = 5 -> :enum("billing", "bug", "other") queue, :confidence_score confidence, '
    ":string reply"
)
TICKETS = (
    "The app closes as soon as I open a photo. I have an old phone, and it worked before the update last week.",
    "I was charged twice in March. Please refund one of them.", "Is there a version for the TV?",
)  # fmt: skip
OUTPUTS = {"queue": "bug", "confidence": 0.93, "reply": "Thank you for the report. We are looking into it."}
PROGRAMS = (
    dspex.Program(
        "triage", TRIAGE, adapter="scripted", module_options={"calls": 3, "sleep_ms": 120, "outputs": OUTPUTS}
    ),
    dspex.Program(
        "summarise", dspex.signature('signature summarise "Summarise a document": :string document -> :string summary'),
        adapter="scripted", retry=dspex.Retry(2, backoff=0.2),
        module_options={"fail": {"code": "rate_limited", "times": 9}},
    ),
    dspex.Program(
        "refund_desk",
        dspex.signature('signature refund_desk "Pay back what was charged twice": '
                        ':string order_id, :string message -> :string answer'),
        module="tests.waiting_programs:Desk", model="openai/gpt-5-mini", api_base="http://127.0.0.1:1/v1",
    ),
    dspex.Program(
        "research", dspex.signature("question -> answer"), adapter="scripted", module_options={"sleep_ms": 120_000}
    ),
)  # fmt: skip


PACKAGES = {"DSPEX_PROGRAM_PACKAGES": "tests.waiting_programs"}
#: Pages that say something without data.
EMPTY = (
    "/", "/failed", "/approvals", "/programs", "/evaluations", "/optimizations", "/batches", "/schedules", "/workers",
    "/webhooks", "/alerts",
)  # fmt: skip
LONG = "Ein sehr langer Text über Überläufe, 長い入力, and a_word_without_any_break_" + "x" * 300


def main() -> None:
    """Take the pictures."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build/screenshots")
    docs = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, _servers(Path(home)) as servers:  # noqa: SIM117
        with _browser() as browser:
            with fresh_backends(servers) as backends, serving(backends) as served:
                _take(browser, served.url, folder, {f"empty{path.replace('/', '-')}": path for path in EMPTY})
            with fresh_backends(servers) as backends, serving(backends) as served, Client(
                database_url=backends.database_url, broker_url=backends.broker_url
            ) as client:  # fmt: skip
                for program in PROGRAMS:
                    client.deploy(program)
                optimized = _optimized(client)
                worker = WorkerProcess(backends, folder / "worker.log", PACKAGES)
                try:
                    worker.wait_until_ready()
                    pages = {**_filled(client), **optimized}
                    _take(browser, served.url, folder, pages)
                    if docs is not None:
                        _take_for_docs(browser, served.url, docs, pages)
                    _take(browser, served.url, folder, _crowded(client))
                finally:
                    worker.kill()


def _filled(client: Client) -> Mapping[str, str]:
    """The pages to take, after some executions."""
    done = [client.submit("triage", {"ticket": ticket}, metadata={"customer": 42}) for ticket in TICKETS]
    failed = client.submit("summarise", {"document": "A long document. " * 400})
    running = client.submit("research", {"question": "What changed in the last year?"})
    refunds = [
        client.submit("refund_desk", {"order_id": f"A-{number}", "message": message}, tenant=tenant)
        for number, message, tenant in ((1001, TICKETS[1], None), (1002, "It broke on the first day.", "acme"),
                                        (1003, "Charged twice in May. " * 30, "acme"))
    ]  # fmt: skip
    batch = client.submit_many("triage", [{"ticket": f"Ticket number {n}"} for n in range(200)])
    client.schedule(
        "nightly", program="triage", inputs={"ticket": "Is it up?"}, cron="0 7 * * 1-5", timezone="Europe/Berlin"
    )
    client.pause("summarise")
    client.resume("summarise")
    for each in done:
        each.result(timeout=60)
    wait_for(lambda: failed.refresh().status.is_final, "a failure")
    wait_for(lambda: running.refresh().status == "running", "an execution that runs")
    wait_for(lambda: batch.progress.finished > 50, "a part of a batch")
    wait_for(lambda: len(client.approvals()) == len(refunds), "refunds to wait for a decision")
    (call,) = client.approvals(execution_id=refunds[0].id)
    client.approve(refunds[0].id, call.call_id, note="The order was charged twice indeed.", by="key anna")
    refunds[0].result(timeout=60)
    refunds[0].feedback(score=1.0, note="As it should be.", by="key anna")
    refunds[0].feedback(score=0.25, outputs={"answer": "Paid back 24.50 EUR for A-1001."}, by="ada via key shop")
    return {
        **_improved(client),
        "executions": "/", "completed": f"/executions/{done[0].id}", "failed-one": f"/executions/{failed.id}",
        "running": f"/executions/{running.id}", "approvals": "/approvals", "waiting": f"/executions/{refunds[1].id}",
        "approved": f"/executions/{refunds[0].id}", "programs": "/programs", "program": "/programs/triage",
        "batches": "/batches", "batch": f"/batches/{batch.id}", "failed": "/failed", "schedules": "/schedules",
        "workers": "/workers", "health": "/health", "webhooks": "/webhooks", "alerts": "/alerts", "docs": "/docs",
        "missing": "/executions/00000000-0000-7000-8000-000000000000", "sign-in": "/sign-in",
    }  # fmt: skip


#: Versions of one program, from the first to the best.
ROUTES = tuple(
    dspex.Program(
        "route", TRIAGE, adapter="scripted", model="openai/gpt-5-mini", timeout=timeout,
        module_options={"calls": 2, "sleep_ms": 15, "cost_usd": 0.0004, "outputs": {**OUTPUTS, "queue": queue}},
    )
    for queue, timeout in (("other", 30), ("billing", 30), ("bug", 30), ("bug", 60))
)  # fmt: skip
LABELS = ("billing", "bug", "other", "billing")


def _optimized(client: Client) -> Mapping[str, str]:
    """The pages of an optimisation, which is settled before there is a worker."""
    first, second, third, fourth = ROUTES
    for each in ROUTES:
        client.deploy(each, current=False, note=None if each is first else f"gepa from {first.version} on tickets")
    rows = [{"ticket": TICKETS[n % 3], "queue": LABELS[n % 4]} for n in range(60)]
    client.dataset("tickets", rows, inputs=["ticket"])
    tried = [
        (first.version, 0.25, None), (second.version, 0.5, first.version), (third.version, 0.45, second.version),
        (fourth.version, 0.8125, second.version),
    ]  # fmt: skip
    job = finished_job(client, client._database, "route", "tickets", tried)
    client._database.run(lambda connection: connection.execute(text("DELETE FROM dspex.workers")))
    return {"optimizations": "/optimizations", "optimization": f"/optimizations/{job.id}"}


def _improved(client: Client) -> Mapping[str, str]:
    """The pages of evaluations and of versions."""
    first, second, _, fourth = ROUTES
    tickets = client.dataset("tickets")
    client.alias("route", "champion", first.version)
    before = client.evaluate("route", tickets, metric="exact", version=first.version).wait(120)
    after = client.evaluate("route", tickets, metric="exact", version=second.version).wait(120)
    refused = client.evaluate("route", tickets[:20], metric="os:getcwd", version=second.version).wait(120)
    client.rollout(
        "route", second.version, percent=10, guard=dspex.Guard(max_error_rate=0.02, min_score=0.8), by="key on-call"
    )
    compare = f"/evaluations/{after.id}/compare"
    return {
        "evaluations": "/evaluations", "evaluation": f"/evaluations/{after.id}",
        "evaluation-errors": f"/evaluations/{refused.id}", "comparison": f"{compare}?with={before.id}",
        "comparison-row": f"{compare}/row?with={before.id}&row=1", "versions": "/programs/route/versions",
        "program-versions": "/programs/route",
        "diff": f"/programs/route/diff?before={first.version}&after={fourth.version}",
    }  # fmt: skip


def _crowded(client: Client) -> Mapping[str, str]:
    """Lists with much in them, and long texts."""
    for number in range(60):
        signature = dspex.signature("question -> answer", description=f"The program number {number}. {LONG}")
        client.deploy(
            dspex.Program(f"a_program_with_a_rather_long_name_number_{number}", signature, adapter="scripted")
        )
        client.schedule(f"nightly-{number}", program="triage", inputs={"ticket": LONG}, cron="0 7 * * 1-5")
    long = client.submit("triage", {"ticket": LONG * 20}, metadata={"a_long_name_of_metadata": LONG}, tenant="acme",
                         webhook="https://example.com/" + "x" * 200)  # fmt: skip
    for number in range(60):
        client.submit("refund_desk", {"order_id": f"order-{number}", "message": LONG * (1 + number % 3)})
    client.submit_many("summarise", [{"document": f"{n} {LONG}"} for n in range(300)])
    long.result(timeout=60)
    wait_for(lambda: len(client.approvals()) > 60, "many to wait for a decision")
    wait_for(lambda: len(client.list(status="failed", limit=200)) == 200, "many to fail")
    return {
        "much-executions": "/?program=triage&status=completed", "much-one": f"/executions/{long.id}",
        "much-programs": "/programs", "much-failed": "/failed", "much-schedules": "/schedules", "much-docs": "/docs",
        "much-webhooks": "/webhooks", "much-approvals": "/approvals",
    }  # fmt: skip


def _take_for_docs(browser: Any, url: str, folder: Path, pages: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _look_like(browser, 1200, "light", height=760)
    for name, path in pages.items():
        browser.get(url + path)
        picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "webp", "quality": 55})
        (folder / f"{name}.webp").write_bytes(base64.b64decode(picture["data"]))


def _look_like(browser: Any, width: int, theme: str, *, height: int = 900) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": theme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def _take(browser: Any, url: str, folder: Path, pages: Mapping[str, str]) -> None:
    for name, path in pages.items():
        for width in WIDTHS:
            for theme in THEMES:
                _look_like(browser, width, theme)
                browser.get(url + path)
                whole = browser.execute_script("return document.documentElement.scrollHeight")
                _look_like(browser, width, theme, height=min(max(whole, 900), TALLEST))
                browser.save_screenshot(str(folder / f"{name}-{width}-{theme}.png"))


@contextmanager
def _servers(folder: Path) -> Iterator[EmbeddedServers]:
    """Servers whose databases are migrated: without, each page of the part without data is an error."""
    os.environ.setdefault(RUN_DIRECTORY, str(folder))
    with migrated_servers(folder / "servers") as servers:
        yield servers


@contextmanager
def _browser() -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as opened:
        yield opened


if __name__ == "__main__":
    main()
