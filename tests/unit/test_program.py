"""Programs: checked whole, versioned by content, without secrets."""

from __future__ import annotations

import ast
import inspect
import json
import pickle
import textwrap
from typing import Any

import pytest

import dspex
from dspex.program.program import Program

QA = dspex.signature("question -> answer")
#: A `dspy.File`, as a signature has it.
FILED = (
    ":object(file_data=:optional(:string), file_id=:optional(:string), filename=:optional(:string)) paper"
    " -> :string text"
)
HEARD = ":audio call -> :string text"


def program(**fields: Any) -> Program:
    return Program("qa", **{"signature": QA, "model": "openai/gpt-4o-mini", **fields})


def test_the_same_content_is_the_same_version() -> None:
    assert program().version == program().version
    assert program(temperature=0.5).version != program().version
    assert Program("other", QA, model="openai/gpt-4o-mini").version == program().version


def test_a_signature_may_be_text_or_a_class_for_type_checkers_too() -> None:
    """mypy reads this file: these calls need no ignored error."""

    class Ask(dspex.SignatureModel):
        question: str = dspex.InputField()
        answer: str = dspex.OutputField()

    written = Program("p", "question -> answer", adapter="scripted")
    assert Program("p", Ask, adapter="scripted").signature.fingerprint == written.signature.fingerprint


def test_type_checkers_see_all_fields_of_a_program() -> None:
    source = ast.parse(textwrap.dedent(inspect.getsource(Program)))
    (seen,) = (node for node in ast.walk(source) if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    made = inspect.signature(Program)
    assert [argument.arg for argument in seen.args.args[1:]] == list(made.parameters)
    shown = {argument.arg: ast.unparse(argument.annotation) for argument in seen.args.args[1:] if argument.annotation}
    assert shown.pop("signature") == "Signature | str | type"
    assert shown.pop("api_key") == "object"
    assert shown == {name: made.parameters[name].annotation for name in shown}
    assert len(seen.args.defaults) == sum(each.default is not each.empty for each in made.parameters.values())


def test_a_program_comes_back_from_its_content() -> None:
    original = program(state={"demos": [{"question": "?", "answer": "!"}]}, retry=dspex.Retry(5), timeout=30)
    again = Program.from_content("qa", json.loads(json.dumps(original.content)))
    assert again == original
    assert again.version == original.version
    assert pickle.loads(pickle.dumps(original)).version == original.version


def test_what_is_recorded_of_a_call_is_part_of_the_version_unless_it_is_the_default() -> None:
    default, full, none = program(), program(record="full"), program(record="none")
    assert "record" not in default.content
    assert len({default.version, full.version, none.version}) == 3
    assert Program.from_content("qa", full.content) == full
    assert [each.keeps_answers for each in (default, full, none)] == [True, True, False]
    with pytest.raises(dspex.ValidationError, match="record"):
        program(record="all")


def test_a_program_of_a_newer_version_is_refused() -> None:
    with pytest.raises(dspex.ProgramNotFound, match="newer DSPex"):
        Program.from_content("qa", {**program().content, "telepathy": True})


def test_every_wrong_field_is_reported() -> None:
    with pytest.raises(dspex.ValidationError) as wrong:
        Program(
            "no spaces allowed",
            QA,
            module="telepathy",
            model="gpt",
            temperature=3,
            max_tokens=0,
            timeout=-1,
            prompt="loud",
            api_base="ftp://x",
            retry=dspex.Retry(0, backoff=-1),
        )
    assert {error.path for error in wrong.value.errors} == {
        "name", "module", "model", "temperature", "max_tokens", "timeout", "prompt", "api_base",
        "retry.max_attempts", "retry.backoff",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "path", "expected"),
    [
        ({"module_options": {"colour": "red"}}, "module_options.colour", "no options"),
        ({"state": '{"demos": []}'}, "state", "a mapping"),
        ({"state": [{"demos": []}]}, "state", "a mapping"),
        ({"state": ""}, "state", "a mapping"),
        ({"module": "react"}, "tools", "package.module:function"),
        ({"module": "react", "tools": ["os.system"]}, "tools", "package.module:function"),
        ({"module": "react", "tools": ["a:look", "b:look"]}, "tools", "different names"),
        ({"module": "react", "tools": ["a:finish"]}, "tools", "none of them 'finish'"),
        ({"module": "code_act", "tools": ["mcp+stdio://time"]}, "tools", "package.module:function"),
        ({"module": "react", "tools": ["mcp+ftp://host"]}, "tools", "mcp+https"),
        ({"module": "react_v2", "tools": ["a:submit"]}, "tools", "none of them 'submit'"),
        ({"module": "rlm", "signature": "question -> trajectory"}, "signature", "'trajectory'"),
        ({"module": "predict", "tools": ["a:look"]}, "tools", "calls no tools"),
        ({"module": "best_of_n", "module_options": {"n": 3, "reward": "a:b"}}, "module_options.threshold", "a number"),
        ({"module": "refine", "module_options": {"n": 0, "reward": "a:b", "threshold": 1}}, "module_options.n", "1 to"),
        ({"module": "multi_chain_comparison", "module_options": {"m": 1}}, "module_options.m", "2 to 20"),
        ({"module": "a.b:c.d"}, "module", "'package.module:factory'"),
        ({"module": "a.b:c", "tools": ["a:b"]}, "tools", "custom module"),
        ({"module": "a.b:c", "module_options": {"signature": "x"}}, "module_options.signature", "factory receives"),
        ({"module": "chain_of_thought", "signature": "reasoning -> answer"}, "signature", "'reasoning'"),
        ({"module": "react", "tools": ["a:b"], "signature": "question -> trajectory"}, "signature", "'trajectory'"),
    ],
)  # fmt: skip
def test_a_module_is_checked_with_its_options_and_tools(fields: dict[str, Any], path: str, expected: str) -> None:
    with pytest.raises(dspex.ValidationError) as wrong:
        program(**fields)
    (error,) = wrong.value.errors
    assert error.path == path
    assert expected in error.expected


def test_an_adapter_that_calls_models_needs_one() -> None:
    with pytest.raises(dspex.ValidationError, match="model"):
        program(model=None)
    assert program(model=None, adapter="scripted").model is None


def test_an_unknown_adapter_is_named_with_those_there_are() -> None:
    with pytest.raises(dspex.ValidationError, match="direct, dspy, scripted"):
        program(adapter="telepathy")


@pytest.mark.parametrize(
    "fields",
    [
        {"api_key": "sk-anything"},
        {"state": {"lm": {"api_key": "abcdefgh"}}},
        {"state": {"demos": [{"note": "Bearer abcdefghijklmnopqrstuvw"}]}},
        {"api_base": "https://user:hunter22@host/v1"},
        {"adapter": "scripted", "module_options": {"outputs": {"answer": "sk-abcdefghijklmnopqrstuv"}}},
    ],
)
def test_a_secret_is_refused_and_not_repeated(fields: dict[str, Any]) -> None:
    with pytest.raises(dspex.SecretInProgram) as refused:
        program(**fields)
    assert str(refused.value).startswith("program 'qa' ")
    assert not any(secret in str(refused.value) for secret in ("abcdefgh", "hunter22", "sk-anything"))


@pytest.mark.parametrize(
    ("model", "prompt", "style"), [("smollm2", None, "compact"), ("a/b", None, "chat"), ("a/b", "json", "json")]
)
def test_the_prompt_in_force(model: str, prompt: str | None, style: str) -> None:
    assert program(model=model, prompt=prompt).prompt_style == style


@pytest.mark.parametrize("end", ["\r\nX-Injected: 1", "\n", "\r", "\x00", "\x7f", "\x85"])
def test_addresses_and_models_that_would_split_a_request_are_refused(end: str) -> None:
    with pytest.raises(dspex.ValidationError, match="api_base: expected an http:// or https:// address") as refused:
        Program("qa", QA, model=f"openai/m{end}", api_base=f"https://host/v1{end}")
    assert {error.path for error in refused.value.errors} == {"api_base", "model"}


@pytest.mark.parametrize(
    "address",
    ["https://host /v1", "http://", "https://host/v1\t", "http://[", "http://[::1", "http://host:a/v1", "http://:8000"],
)
def test_an_address_has_a_host_and_no_blanks(address: str) -> None:
    with pytest.raises(dspex.ValidationError, match="api_base"):
        Program("qa", QA, model="openai/m", api_base=address)


def test_a_model_is_a_short_form_or_all_of_its_settings() -> None:
    given = dspex.Model(
        "openai/gpt-5-mini", api_key_env="KEY", temperature=1.0, max_tokens=100, options={"reasoning_effort": "low"}
    )
    program = dspex.Program("p", QA, model=given, models={"judge": "openai/o3", "draft": given})
    assert (program.model, program.api_key_env, program.temperature) == ("openai/gpt-5-mini", "KEY", 1.0)
    assert program.model_options == {"reasoning_effort": "low"}
    assert program.models == {"judge": dspex.Model("openai/o3"), "draft": given}
    stored = json.loads(json.dumps(program.content))
    again = dspex.Program.from_content("p", stored)
    assert (again.version, again.models) == (program.version, program.models)


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"models": {"judge": 3}}, "models.judge"),
        ({"models": {"judge": dspex.Model("no provider")}}, "models.judge"),
        ({"models": {"judge": dspex.Model("a/b", api_base="ftp://x")}}, "models.judge.api_base"),
        ({"models": {"judge": dspex.Model("a/b", options={"cache": True})}}, "models.judge.options.cache"),
        ({"model_options": {"temperature": 1}}, "model_options.temperature"),
        ({"model_options": {"extra_headers": {"a": 1}}}, "model_options.extra_headers"),
        ({"predictors": {"ask": "judge"}}, "predictors.ask"),
        ({"prompt": "yaml"}, "prompt"),
        ({"model": "anthropic/claude", "signature": ":list(:audio) calls -> :string text"}, "signature.calls"),
        ({"fallback": ["anthropic/claude"], "signature": HEARD}, "signature.call"),
        (
            {"models": {"ear": "anthropic/claude"}, "predictors": {"*": "ear"}, "signature": HEARD},
            "signature.call",
        ),
        ({"model": "smollm2", "signature": ":optional(:image) picture -> :string text"}, "signature.picture"),
        ({"adapter": "direct", "signature": ":list(:image) pictures -> :string text"}, "signature.pictures"),
        ({"adapter": ["dspy", "direct"], "signature": FILED}, "signature.paper"),
        ({"fallback": ["no provider"]}, "fallback[0]"),
        ({"fallback": "smollm2"}, "fallback"),
        ({"fallback": [dspex.Model("a/b", max_tokens=0)]}, "fallback[0].max_tokens"),
        ({"models": {"judge": dspex.Model("a/b", temperature=3)}}, "models.judge.temperature"),
        ({"prompt": "two_step"}, "models.extraction"),
        ({"module": "rlm", "module_options": {"sub_model": "draft"}}, "module_options.sub_model"),
    ],
)
def test_faults_of_models_name_their_place(settings: dict[str, Any], path: str) -> None:
    with pytest.raises(dspex.ValidationError) as refused:
        dspex.Program("p", **{"signature": QA, "model": "openai/test", **settings})
    assert [fault.path for fault in refused.value.errors] == [path]


@pytest.mark.parametrize(
    "settings",
    [
        {"signature": ":list(:image) pictures, :audio call -> :string text"},
        {"signature": ":image picture, :audio call -> :string text", "adapter": "direct"},
        {"signature": FILED},
        {"signature": ":list(:audio) calls -> :string text", "model": "anthropic/claude", "module": "mine:Module"},
        {"signature": HEARD, "model": "anthropic/c", "models": {"ear": "gemini/f"}, "predictors": {"*": "ear"}},
    ],
)
def test_media_that_may_reach_a_model_are_accepted(settings: dict[str, Any]) -> None:
    assert dspex.Program("p", **{"model": "openai/test", **settings}).signature.input_fields


def test_a_refusal_of_media_says_what_to_write_instead() -> None:
    for settings, words in (
        ({"model": "anthropic/claude", "signature": HEARD}, "give a transcript as text"),
        ({"adapter": "direct", "signature": FILED}, "or adapter 'dspy'"),
    ):
        with pytest.raises(dspex.ValidationError, match=words):
            dspex.Program("p", **{"model": "openai/test", **settings})  # type: ignore[arg-type]


def test_secrets_in_models_are_refused() -> None:
    options = {"extra_headers": {"Authorization": "Bearer 0123456789abcdef0123"}}
    for settings in ({"models": {"judge": dspex.Model("a/b", options=options)}}, {"model_options": options}):
        with pytest.raises(dspex.SecretInProgram):
            dspex.Program("p", QA, model="openai/test", **settings)


def test_named_models_are_for_code_that_a_worker_runs() -> None:
    with pytest.raises(RuntimeError, match="a worker runs"):
        dspex.model("judge")


def test_fallback_models_are_part_of_a_program() -> None:
    given = dspex.Model("smollm2", temperature=0.2)
    program = dspex.Program("p", QA, model="openai/test", fallback=["anthropic/claude-haiku-4-5", given])
    assert program.fallback == (dspex.Model("anthropic/claude-haiku-4-5"), given)
    again = dspex.Program.from_content("p", json.loads(json.dumps(program.content)))
    assert (again.version, again.fallback_models) == (program.version, program.fallback)
    assert "fallback" not in dspex.Program("p", QA, model="openai/test").content


@pytest.mark.parametrize("kind", ["tool", "intent", "decision", "child"])
def test_no_model_is_called_as_another_entry_of_the_journal_is(kind: str) -> None:
    name = f"{kind}:house/m"
    for settings, path in (
        ({"model": name}, "model"),
        ({"models": {"judge": name}}, "models.judge"),
        ({"fallback": [dspex.Model(name)]}, "fallback[0]"),
    ):
        with pytest.raises(dspex.ValidationError, match="other entries of the journal") as wrong:
            dspex.Program("p", QA, **{"model": "openai/test", **settings})  # type: ignore[arg-type]
        assert [error.path for error in wrong.value.errors] == [path]


def test_secrets_in_headers_are_named_by_their_variables() -> None:
    headers = {"Authorization": "Bearer ${GATEWAY_TOKEN}", "X-Api-Key": "${TEAM_KEY}"}
    judge = dspex.Model("a/b", api_key_env="JUDGE_KEY", options={"extra_headers": headers})
    program = dspex.Program(
        "p", QA, model="openai/test", model_options={"extra_headers": headers}, models={"judge": judge}
    )
    assert program.secret_names == {"GATEWAY_TOKEN", "TEAM_KEY", "JUDGE_KEY"}
    for text in ("Bearer 0123456789abcdef ${GATEWAY_TOKEN}", "0123456789 ${TEAM_KEY}"):
        with pytest.raises(dspex.SecretInProgram):
            dspex.Program("p", QA, model="openai/test", model_options={"extra_headers": {"Authorization": text}})


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"model_options": {"response_format": object()}}, "model_options"),
        ({"model_options": {"seed": float("nan")}}, "model_options"),
        ({"models": {"judge": dspex.Model("openai/x", options={"stop": {"a", "b"}})}}, "models"),
        ({"fallback": [dspex.Model("openai/x", options={"seed": float("inf")})]}, "fallback"),
        ({"model_options": {"organization": "org-1"}}, "model_options.organization"),
        ({"fallback": [dspex.Model("openai/x", options={"headers": {}})]}, "fallback[0].options.headers"),
    ],
)
def test_an_option_that_cannot_be_stored_or_kept_is_refused(settings: dict[str, Any], path: str) -> None:
    with pytest.raises(dspex.ValidationError) as refused:
        dspex.Program("p", dspex.signature("question -> answer"), model="openai/x", **settings)
    assert [fault.path for fault in refused.value.errors] == [path]
