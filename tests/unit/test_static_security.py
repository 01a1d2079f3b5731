"""What the source may not do, whatever a review overlooks: unpickle, run text as code, put a value into SQL."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import celeryconfig
from dspex.publish.broker import queue_keys

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("dspex/**/*.py"), *ROOT.glob("workers/**/*.py"), ROOT / "celeryconfig.py"])
#: What turns data into objects or code. The conformance suite pickles its own errors, to see that they survive it.
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "jsonpickle"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
MAY = {("workers/conformance/suite.py", "pickle")}
SQL = re.compile(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM|ALTER|CREATE|DROP|GRANT|TRUNCATE|COPY|SET)\s+[\w.{*(%]")
#: What may be in the text of a statement beside constants: each was looked at, and is no value of a user's.
REVIEWED = {
    "dspex/store/database.py": {"int(statement_seconds * 1000)"},
    "dspex/store/operations/report.py": {"_BUCKET.format(at='finished_at')", "_BUCKET.format(at='created_at')"},
    # Names of our own roles, tables and functions: parameters cannot stand there.
    "dspex/store/roles.py": {"role", "each", "granted", "table", "', '.join(functions)"},
    "dspex/store/facts/storage_facts.py": {"key", "table"},  # names of partitioned tables
    "dspex/store/operations/retention.py": {"column", "table", "rows", "chosen"},  # literals of that module
}


#: The expressions of a module that are looked at.
Looked = ast.Import | ast.ImportFrom | ast.Call | ast.JoinedStr | ast.Constant | ast.Expr
Nodes = Sequence[ast.AST]
Modules = Sequence[tuple[str, Nodes]]


@pytest.fixture(scope="module")
def modules() -> Modules:
    """The name of each module, and what is looked at in it."""
    paths = [path for path in SOURCES if "migrations" not in path.parts]
    return [(str(path.relative_to(ROOT)), nodes_of(path.read_text())) for path in paths]


def nodes_of(source: str) -> Nodes:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, Looked)]


def test_nothing_unpickles_and_nothing_runs_text_as_code(modules: Modules) -> None:
    found = set()
    for name, nodes in modules:
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                imported = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                found |= {(name, module) for module in imported if module.split(".")[0] in UNSAFE_MODULES}
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in UNSAFE_CALLS:
                found.add((name, node.func.id))
    assert found - MAY == set()


def test_celery_takes_json_and_nothing_else() -> None:
    assert celeryconfig.accept_content == ["json"]
    assert (celeryconfig.task_serializer, celeryconfig.event_serializer) == ("json", "json")
    from celery import Celery

    app = Celery("dspex", broker="memory://")
    app.config_from_object(celeryconfig)
    assert app.control.mailbox.accept == ["json"]
    assert app.events.Receiver(app.connection_for_read()).accept == {"json"}
    assert queue_keys()


def _statements(nodes: Nodes) -> Iterator[ast.JoinedStr]:
    """The f-strings that are statements."""
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{x" for part in node.values)
            if SQL.search(text) and re.search(r"\b(FROM|INTO|SET|WHERE|TABLE|ROLE|ON|TO)\b", text):
                yield node


def _is_constant(expression: ast.expr) -> bool:
    if isinstance(expression, ast.Name):
        return expression.id.isupper() or expression.id.lstrip("_").isupper()
    if isinstance(expression, ast.IfExp):
        return _is_constant(expression.body) and _is_constant(expression.orelse)
    return isinstance(expression, ast.Constant)


#: How a text begins that is a statement.
BEGINS = re.compile(
    r"\s*(WITH|SELECT|INSERT INTO|UPDATE|DELETE FROM|ALTER|CREATE|DROP|GRANT|REVOKE|TRUNCATE|COPY|SET|SHOW|LOCK"
    r"|VACUUM|ANALYZE|EXPLAIN|LISTEN|NOTIFY|BEGIN|COMMIT|ROLLBACK)\s+\S"
)
#: Functions and methods that take a statement.
TAKES_SQL = {"text", "execute", "exec_driver_sql", "scalar", "scalars", "executemany", "copy"}


def _texts(nodes: Nodes) -> Iterator[tuple[int, str]]:
    """Every string but docstrings; what an f-string interpolates is left out."""
    expressions = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}  # docstrings among them
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in expressions:
            yield node.lineno, node.value


def _statements_given(nodes: Nodes) -> Iterator[tuple[int, str]]:
    """Calls such as ``text("…")`` and ``connection.execute(f"…")``."""
    for node in nodes:
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant | ast.JoinedStr):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in TAKES_SQL:
                yield node.lineno, ast.unparse(node)


def sql_in(nodes: Nodes) -> list[tuple[int, str]]:
    return [*((line, text) for line, text in _texts(nodes) if BEGINS.match(text)), *_statements_given(nodes)]


def test_sql_is_in_the_store_alone(modules: Modules) -> None:
    found = [
        f"{name}:{line}: {text[:60]}"
        for name, nodes in modules
        if not name.startswith("dspex/store/")
        for line, text in sql_in(nodes)
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "QUERY = 'SELECT 1'",
        "QUERY = '\\nWITH a AS (SELECT 1) SELECT * FROM a'",
        "QUERY = f'DELETE FROM {table}'",
        "connection.execute('vacuum')",
        "text('select 1')",
    ],
)
def test_sql_elsewhere_is_found(source: str) -> None:
    assert sql_in(nodes_of(source))


def test_no_statement_takes_a_value_into_its_text(modules: Modules) -> None:
    """Values are parameters. Text is put together from constants, and from the few names that were reviewed."""
    wrong = []
    for name, nodes in modules:
        for statement in _statements(nodes):
            for part in statement.values:
                if isinstance(part, ast.FormattedValue) and not _is_constant(part.value):
                    shown = ast.unparse(part.value)
                    if shown not in REVIEWED.get(name, ()):
                        wrong.append(f"{name}:{statement.lineno}: {{{shown}}}")
    assert wrong == []


@pytest.mark.parametrize("text", ["f'SELECT a FROM t WHERE b = {user}'", "f'DELETE FROM {table} WHERE x'"])
def test_it_would_see_one(text: str) -> None:
    (statement,) = _statements(nodes_of(text))
    assert not all(_is_constant(part.value) for part in statement.values if isinstance(part, ast.FormattedValue))
