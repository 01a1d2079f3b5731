"""What importing dspex loads; the layers and forbidden imports are contracts in pyproject.toml."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"dspy", "litellm", "celery", "flower", "workers"}


#: What a producer does, one after the other.
STEPS = (
    "import dspex",
    "dspex.signature('question -> answer').validate_inputs({'question': 'x'})",
    "client = dspex.Client(database_url='postgresql://h/d', broker_url='redis://h')",
)


@pytest.fixture(scope="module")
def loaded() -> list[set[str]]:
    """The modules that are loaded after each step, in a new process."""
    code = "".join(f"{step}; import sys; print(*sys.modules)\n" for step in STEPS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [set(line.split()) for line in done.stdout.splitlines()]


def packages(modules: set[str]) -> set[str]:
    return {name.split(".")[0] for name in modules}


@pytest.mark.parametrize("step", range(len(STEPS)))
def test_a_producer_loads_nothing_that_only_workers_need(loaded: list[set[str]], step: int) -> None:
    assert packages(loaded[step]) & HEAVY == set()


def test_importing_dspex_loads_nothing_that_takes_time(loaded: list[set[str]]) -> None:
    heavy = {"pydantic", "pydantic_core", "sqlalchemy", "kombu", "redis", "psycopg", "rich", "click", "alembic"}
    assert packages(loaded[0]) & heavy == set()


def test_a_client_loads_no_library_of_tables(loaded: list[set[str]]) -> None:
    assert {"pyarrow", "narwhals", "pandas", "polars", "numpy", "IPython"} & packages(loaded[-1]) == set()


def test_without_a_key_cryptography_is_not_loaded(loaded: list[set[str]]) -> None:
    assert "cryptography.hazmat.primitives.ciphers.aead" not in loaded[-1]  # redis-py loads some of the package itself


def test_every_public_name_is_there_and_sorted() -> None:
    import dspex

    assert dspex.__all__ == sorted(dspex.__all__)
    for name in dspex.__all__:
        assert getattr(dspex, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'telepathy'"):
        _ = dspex.telepathy


def test_dspy_still_names_the_place_that_imports_a_missing_package() -> None:
    """While dspy is imported, its calls of inspect.stack() are answered in less time."""
    from workers.adapters import dspy as adapter

    def require() -> list[inspect.FrameInfo]:
        return adapter._callers()

    found, complete = require(), inspect.stack()
    assert [frame.function for frame in found] == ["require", complete[0].function]
    assert found[1].filename == complete[0].filename
    assert len(complete) > len(found)


#: Makes every adapter and imports every process of the image, where only the packages of its lock can be imported.
IN_THE_IMAGE = """
import asyncio, re, sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions
from pathlib import Path

def plain(name):
    return re.sub("[-_.]+", "-", name).lower()

held = set(map(plain, re.findall(r"(?m)^([\\w.-]+)==", Path(sys.argv[1]).read_text())))
left_out = {package for package, owners in packages_distributions().items() if held.isdisjoint(map(plain, owners))}
left_out -= {"dspex", "workers"}

class Image(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in left_out else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Image
from dspex.program.adapters import adapters
from workers.adapters import Adapters

async def make():
    made = Adapters()
    for name in adapters():
        await made.get(name)
    await made.close()

asyncio.run(make())
for module in ("app", "pool", "__main__", "consume.beat_scheduler", "consume.flower"):
    import_module(f"workers.{module}")
import_module("dspex.serve.http_server")
print(*sorted(left_out))
"""


def test_the_image_has_every_package_that_its_processes_import() -> None:
    lock = Path(__file__).parents[2] / "deploy" / "requirements.lock"
    environment = {**os.environ, "DSPEX_DATABASE_URL": "postgresql://h/d", "DSPEX_BROKER_URL": "redis://h"}
    done = subprocess.run(
        [sys.executable, "-c", IN_THE_IMAGE, lock], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {"numpy", "pytest"} <= set(done.stdout.split()), "what the image leaves out cannot be imported"
