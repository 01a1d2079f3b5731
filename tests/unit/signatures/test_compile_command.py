"""``dspex compile``."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from dspex.cli.programs.compile_command import compile_command
from dspex.signatures import signature

TRIAGE = 'signature triage "Route": :string(max_length=400) ticket -> :enum("a", "b") queue, :string(max_length=9) why'


def test_it_prints_fields_schemas_fit_and_fingerprint(tmp_path: Path) -> None:
    file = tmp_path / "triage.sig"
    file.write_text(TRIAGE)
    result = CliRunner().invoke(compile_command, [str(file), "--provider", "openai"])
    assert result.exit_code == 0, result.output
    for part in ("triage", "at most 400 characters", "outputs as openai", "only DSPex checks", "why: max_length"):
        assert part in result.output
    assert signature(TRIAGE).fingerprint in result.output
    assert "\x1b[" not in result.output


def test_it_prints_json() -> None:
    result = CliRunner().invoke(compile_command, ["-", "--json"], input=TRIAGE)
    data = json.loads(result.output)
    assert data["fingerprint"] == signature(TRIAGE).fingerprint
    assert data["schemas"]["outputs"] == signature(TRIAGE).json_schema("outputs")
    assert [field["name"] for field in data["output_fields"]] == ["queue", "why"]


def test_a_bad_signature_is_shown_with_its_caret() -> None:
    result = CliRunner().invoke(compile_command, ["-"], input="signature a: :strng x -> :string y")
    assert result.exit_code == 1
    assert "unknown_type" in result.stderr
    assert 'did you mean ":string"?' in result.stderr
    assert "             ^" in result.stderr
    result = CliRunner().invoke(compile_command, ["-", "--json"], input="a: [ -> b")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["code"] == "syntax_error"


def test_a_file_that_is_not_text_is_wrong_usage(tmp_path: Path) -> None:
    file = tmp_path / "binary"
    file.write_bytes(b"\xff\xfe")
    assert CliRunner().invoke(compile_command, [str(file)]).exit_code == 2
    assert CliRunner().invoke(compile_command, [str(tmp_path / "missing")]).exit_code == 2
