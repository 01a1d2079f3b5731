"""The glossary: each term has one row, in order, and names a module that exists."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT

_ROW = re.compile(r"^\| \*\*(?P<term>[\w ]+)\*\* \| (?P<meaning>.+) \| `(?P<module>[\w/]+\.py)` \|$", re.MULTILINE)
#: The terms that the code is written in; more are welcome.
REQUIRED = {
    "Action", "Adapter", "Attempt", "AuditEvent", "Batch", "Claim", "Execution", "Field", "Journal", "Lease", "Program",
    "Pump", "Reaper", "Settlement", "Signature", "Version", "Worker",
}  # fmt: skip


def rows() -> list[re.Match[str]]:
    return list(_ROW.finditer((ROOT / "docs" / "reference" / "glossary.md").read_text()))


def test_every_row_is_a_term_with_its_module() -> None:
    text = (ROOT / "docs" / "reference" / "glossary.md").read_text()
    assert len(rows()) == sum(line.startswith("| **") for line in text.splitlines())


def test_the_terms_are_sorted_and_unique() -> None:
    terms = [row["term"] for row in rows()]
    assert set(terms) >= REQUIRED
    assert len(set(terms)) == len(terms)
    assert terms == sorted(terms, key=lambda term: re.sub(r"(?<=[a-z])(?=[A-Z])", " ", term).lower())


def test_the_modules_exist() -> None:
    missing = {row["term"]: row["module"] for row in rows() if not (ROOT / row["module"]).is_file()}
    assert not missing


def test_a_meaning_is_one_sentence() -> None:
    for row in rows():
        assert row["meaning"].endswith("."), row["term"]
        assert len(row["meaning"]) <= 160, row["term"]
