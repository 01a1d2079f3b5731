"""Stored programs are read as what they are: text that anyone may have written."""

from __future__ import annotations

import json

import pytest

import dspex
from dspex.program.stored_program import StoredProgram
from dspex.store.workers import UnrunnableVersion
from workers.adapters.unrunnable import UnrunnablePrograms

PROGRAM = dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted")
CONTENT = json.dumps(PROGRAM.content)


@pytest.mark.parametrize("state", ['"{}"', "[]", "5"])
def test_a_state_that_is_no_mapping_fits_nowhere(state: str) -> None:
    with pytest.raises(dspex.ProgramUnreadable, match="state: expected a mapping") as refused:
        StoredProgram("qa", PROGRAM.version, with_value("state", state)).read()
    assert refused.value.code == "state_mismatch"
    with pytest.raises(dspex.ProgramUnreadable) as unreadable:
        StoredProgram("qa", PROGRAM.version, with_value("adapter", '"of_another_package"')).read()
    assert unreadable.value.code == "program_unreadable"


def read(content: str) -> str | None:
    """Why it cannot be read; None if it can."""
    try:
        program = StoredProgram("qa", PROGRAM.version, content).read()
    except dspex.ProgramUnreadable as error:
        return str(error)
    assert program.version
    return None


def with_value(field: str, value: str) -> str:
    """The content with JSON text as the value of a field."""
    return json.dumps({**PROGRAM.content, field: "@"}).replace('"@"', value)


def test_a_program_is_read_as_it_was_stored() -> None:
    assert StoredProgram("qa", PROGRAM.version, CONTENT).read() == PROGRAM


@pytest.mark.parametrize("field", sorted(PROGRAM.content))
def test_no_value_of_a_field_causes_any_other_error(field: str) -> None:
    hostile = ("null", "{}", "[]", "5", '"x"', "[[]]", "[{}]", '{"a":1}', "1e999", "NaN", "1" * 5000, '"\\ud800"')
    reasons = [read(with_value(field, value)) for value in hostile]
    assert sum(reason is not None for reason in reasons) >= 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{}", "is not a program"),
        ("null", "a JSON object is expected"),
        ("[1]", "a JSON object is expected"),
        ("{", "is not a program"),
        ("[" * 100_000, "nested too deeply"),
        (with_value("module_options", '{"a":' * 100_000 + "1" + "}" * 100_000), "nested too deeply"),
        (with_value("telepathy", "1"), "deployed by a newer DSPex"),
        (with_value("adapter", '"of_another_package"'), "of_another_package"),
        (with_value("signature", '"signature qa: :isbn_of_a_plugin book -> :string title"'), "isbn_of_a_plugin"),
        (with_value("signature", '"signature qa: :string(colour=1) book -> :string title"'), "colour"),
    ],
)
def test_the_reason_is_clear(content: str, reason: str) -> None:
    assert reason in (read(content) or "")


def test_what_a_worker_publishes_can_be_stored_and_read_back() -> None:
    unrunnable = UnrunnablePrograms()
    unrunnable.add("qa", "0" * 16, dspex.ProgramUnreadable("why: \0 \ud800 " + "x" * 10_000))
    (found,) = unrunnable.versions
    assert "\0" not in found.encode()
    assert len(found.encode().encode()) < 2000
    assert UnrunnableVersion.decode(found.encode()) == found
    assert UnrunnableVersion.decode("").key == " "
    assert "qa" in unrunnable
    unrunnable.remove("qa", "0" * 16)
    assert ("qa" in unrunnable, list(unrunnable.keys)) == (False, [])
