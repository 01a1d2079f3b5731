"""What importing dspex loads; the layers and forbidden imports are contracts in pyproject.toml."""

from __future__ import annotations

import inspect
import subprocess
import sys

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
