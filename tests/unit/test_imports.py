"""What imports what: one way, and light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("dspy", "litellm", "celery", "flower", "workers")
#: Who may import what; nobody else may, not even inside a function.
ALLOWED = {
    "celery": {"workers/__main__.py", "workers/app.py", "workers/pool.py", "workers/tasks.py", "workers/consume/"},
    "billiard": {"workers/consume/"},
    "dspy": {"workers/adapters/dspy/"},
    "litellm": set(),
    "opentelemetry": {"workers/observe/tracing/"},
}  # fmt: skip


def modules(package: str) -> list[Path]:
    return sorted(ROOT.joinpath(package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


def test_the_producer_never_imports_what_only_workers_need() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in modules("dspex")
        for name in imported(path)
        if name.split(".")[0] in HEAVY
    ]
    assert found == []


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_heavy_packages_are_imported_where_they_belong(package: str) -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in modules("workers")
        if any(name.split(".")[0] == package for name in imported(path))
    }
    assert [user for user in users if not user.startswith(tuple(ALLOWED[package]))] == []


#: errors ← signatures ← program ← execution ← store ← client ← cli, by the first that a module may not import.
LATER = {
    "errors.py": ("dspex",),
    "signatures": ("dspex.program", "dspex.settings", "dspex.store", "dspex.client"),
    "program": ("dspex.settings", "dspex.store", "dspex.client"),
    "store": ("dspex.publish", "dspex.submit", "dspex.wait", "dspex.client", "dspex.operations", "dspex.cli"),
    "embedded": ("dspex.client", "dspex.cli"),
    "client": ("dspex.embedded", "dspex.cli"),
}


@pytest.mark.parametrize("place", sorted(LATER))
def test_imports_go_one_way(place: str) -> None:
    target = ROOT / "dspex" / place
    paths = modules(f"dspex/{place}") if target.is_dir() else [target]
    found = [
        f"{path.name}: {name}"
        for path in paths
        for name in imported(path)
        for later in LATER[place]
        if name == later or name.startswith(later + ".")
    ]
    assert found == []


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
def test_a_producer_loads_none_of_it(statement: str) -> None:
    assert loaded_by(statement) & set(HEAVY) == set()


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
