"""What importing dspex loads; the layers and forbidden imports are contracts in pyproject.toml."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

HEAVY = {"dspy", "litellm", "celery", "flower", "workers"}


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    "statement",
    [
        "import dspex",
        "import dspex; dspex.signature('question -> answer').validate_inputs({'question': 'x'})",
        "import dspex; dspex.Client(database_url='postgresql://h/d', broker_url='redis://h')",
    ],
)
def test_a_producer_loads_nothing_that_only_workers_need(statement: str) -> None:
    assert loaded_by(statement) & HEAVY == set()


def test_importing_dspex_loads_nothing_that_takes_time() -> None:
    heavy = {"pydantic", "pydantic_core", "sqlalchemy", "kombu", "redis", "psycopg", "rich", "click", "alembic"}
    assert loaded_by("import dspex") & heavy == set()


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
