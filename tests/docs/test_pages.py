"""Every Python example of the pages, run as it is printed, page by page, on one embedded stack with one real worker."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils import DummyLM
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from dspex.client.client import Client
from dspex.program.modules import is_reference
from dspex.program.program import Program
from dspex.settings.security_settings import new_key
from tests.docs.pages import ROOT, Block, blocks, pages
from tests.docs.stack import stack_with_worker
from tests.local_model import needs_model
from workers.lm.connect.endpoint import Endpoints

EXAMPLE = ROOT / "examples" / "support_desk"
#: The addresses that the programs of reach-a-model.md call.
ASKED = {
    "vllm": "http://gpu-1:8000/v1",
    "ollama": "http://127.0.0.1:11434/v1",
    "claude": "https://gateway.example/v1",
    "azure": "https://team.openai.azure.com/openai/v1",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, fork_server: None) -> Iterator[Path]:
    """A directory in which examples run and the worker finds their files; a stack is up."""
    place = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.syspath_prepend(str(place))
        patch.syspath_prepend(str(EXAMPLE))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(place), str(EXAMPLE), str(ROOT)]))
        patch.setenv("DSPEX_HOME", str(place / "home"))
        patch.setenv("DSPEX_PROGRAM_PACKAGES", "shop,support_desk")
        patch.setenv("DSPEX_ENCRYPTION_KEY", new_key())
        with stack_with_worker(place / "home", place / "worker.log"):
            yield place
        for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
            del sys.modules[name]


@contextmanager
def an_optimiser() -> Iterator[None]:
    """DSPy's own model for the optimiser, and the page's file at hand."""
    (Path.cwd() / "triage.json").write_bytes((EXAMPLE / "support_desk" / "triage.json").read_bytes())
    with dspy.context(lm=DummyLM([{"queue": "delivery"}] * 3), adapter=dspy.ChatAdapter()):
        yield


@contextmanager
def keys() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GATEWAY_KEY", "k")
        patch.setenv("AZURE_KEY", "k")
        yield


@contextmanager
def a_tracer() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_TRACER_PROVIDER", TracerProvider(shutdown_on_exit=False))
        yield


def check_optimised(names: dict[str, Any], _printed: str) -> None:
    assert names["state"]["demos"][0]["ticket"] == "Where is my parcel?"


def check_sealed(names: dict[str, Any], _printed: str) -> None:
    with Client() as client, pytest.MonkeyPatch.context() as patch:
        patch.delenv("DSPEX_ENCRYPTION_KEY")
        with Client() as keyless:
            assert keyless.get(names["execution"].id).inputs == {"request": "Pay the rent", "account": "<secret>"}
        assert client.get(names["execution"].id).inputs["account"] == "DE89 3704 0044"


def check_addresses(names: dict[str, Any], _printed: str) -> None:
    programs = {name: value for name, value in names.items() if isinstance(value, Program)}
    assert set(programs) == {*ASKED, "bedrock", "checked", "answers"}

    async def asked() -> dict[str, str]:
        endpoints = Endpoints(lambda: "")
        found = {name: (await endpoints.of(programs[name])).client.base_url for name in ASKED}
        await endpoints.aclose()
        return found

    with keys():
        assert asyncio.run(asked()) == ASKED


def check_readme(_names: dict[str, Any], printed: str) -> None:
    """The README shows exactly the output of its example."""
    (shown,) = (block.text for block in blocks(ROOT / "README.md") if block.language == "text")
    assert printed == shown


def check_stream(_names: dict[str, Any], printed: str) -> None:
    assert "[poem is complete]" in printed
    assert "done" in printed


def check_trace(names: dict[str, Any], printed: str) -> None:
    assert printed.split() == [names["execution"].trace_id]
    assert names["execution"].trace_id is not None


def check_modules(names: dict[str, Any], _printed: str) -> None:
    assert {names[name].module for name in ("plain", "agent", "best", "answers")} == {
        "predict", "react", "best_of_n", "support_desk.answers:AnswersFromDocuments",
    }  # fmt: skip


def close_engine(names: dict[str, Any], _printed: str) -> None:
    names["engine"].dispose()


#: What a page needs around its examples, and the checks after them.
AROUND: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "docs/how-to/bring-an-optimised-program.md": an_optimiser,
    "docs/how-to/reach-a-model.md": keys,
    "docs/how-to/trace.md": a_tracer,
}
CHECKS = {
    "README.md": check_readme,
    "docs/how-to/bring-an-optimised-program.md": check_optimised,
    "docs/how-to/encrypt-fields.md": check_sealed,
    "docs/how-to/reach-a-model.md": check_addresses,
    "docs/how-to/stream.md": check_stream,
    "docs/how-to/submit-in-a-transaction.md": close_engine,
    "docs/how-to/trace.md": check_trace,
    "docs/how-to/write-a-program.md": check_modules,
}


def write_files(place: Path) -> None:
    """Write the files that pages show; check that Python files compile."""
    for block in (block for page in pages() for block in blocks(page)):
        if block.path and block.language == "python":
            compile(block.text, str(block), "exec")
        if block.path and block.path.startswith("shop/"):
            file = place / block.path
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.text)


def check_code(program: Program) -> None:
    """What a page's program names is in a file of the page, or of the example."""
    named = (program.module, program.module_options.get("reward"), *program.tools)
    for reference in filter(is_reference, (*named, *(action.name for action in program.manual_actions))):
        module, _, name = str(reference).partition(":")
        assert callable(getattr(import_module(module), name, None)), f"{program.name} names {reference}"


def run(block: Block, names: dict[str, Any]) -> None:
    """The block, at its lines of the page."""
    code = "\n" * (block.line - 1) + block.text
    try:
        exec(compile(code, str(block.page), "exec"), names)
    except Exception as error:
        error.add_note(f"in the example at {block}")
        raise


def close_clients() -> None:
    """Close the clients of a page: a script would end here. An asynchronous client closes the one within itself."""
    for each in gc.get_objects():
        if type(each) is Client:
            each.close()


@needs_model
def test_the_examples_run(place: Path) -> None:
    write_files(place)
    ran = 0
    for page in pages():
        found = [block for block in blocks(page) if block.language == "python" and not block.path and not block.reason]
        name = str(page.relative_to(ROOT))
        names: dict[str, Any] = {"__name__": "page"}
        printed = io.StringIO()
        with AROUND.get(name, nullcontext)(), contextlib.redirect_stdout(printed):
            for block in found:
                run(block, names)
        for program in (value for value in names.values() if isinstance(value, Program)):
            check_code(program)
        if name in CHECKS:
            CHECKS[name](names, printed.getvalue())
        close_clients()
        ran += len(found)
    assert ran > 15


def test_what_is_not_run_has_a_reason() -> None:
    """Each marker belongs to the block below it."""
    for page in pages():
        markers = len(re.findall(r"^<!-- not run:", page.read_text(), re.MULTILINE))
        assert markers == sum(block.reason is not None for block in blocks(page)), page


def test_the_readme_is_as_short_as_it_says() -> None:
    (example,) = (block.text for block in blocks(ROOT / "README.md") if block.language == "python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 14
