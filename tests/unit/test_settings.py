"""Settings: where they come from, and what is said of wrong ones."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from lm15.registry import PROVIDERS

from dspex.errors import BackendUnavailable, ConfigurationError
from dspex.settings import Backends, Settings, connection_warnings, unknown_variables, without_password
from dspex.settings.secrets import without_model_keys

URLS = {"database_url": "postgresql://u:secret@h/d", "broker_url": "redis://:secret@h/0"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_environment_goes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("dspex.toml").write_text("lease_seconds = 7\nworker_concurrency = 3\n")
    monkeypatch.setenv("DSPEX_WORKER_CONCURRENCY", "4")
    settings = Settings.load()
    assert (settings.lease_seconds, settings.worker_concurrency) == (7, 4)


def test_all_mistakes_are_reported_at_once_and_secrets_never(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("dspex.toml").write_text("lease_second = 7\n")
    monkeypatch.setenv("DSPEX_LEASE_SECONDS", "soon")
    monkeypatch.setenv("DSPEX_DATABASE_URL", "mysql://u:hunter22@h/d")
    with pytest.raises(ConfigurationError) as wrong:
        Settings.load()
    text = "\n".join(wrong.value.errors)
    assert len(wrong.value.errors) == 3
    assert "DSPEX_LEASE_SECONDS (from environment)" in text
    assert "did you mean 'lease_seconds'?" in text
    assert "must begin with postgresql://" in text
    assert "hunter22" not in str(wrong.value)


def test_the_limits_of_models_come_from_the_environment_or_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_MODEL_LIMITS", '{"openai/a": {"per_minute": 5}}')
    assert Settings.load().model_limits["openai/a"].per_minute == 5
    monkeypatch.setenv("DSPEX_MODEL_LIMITS", '{"openai/a": {"per_minute": 0, "per_hour": 5}}')
    with pytest.raises(ConfigurationError) as wrong:
        Settings.load()
    assert len(wrong.value.errors) == 2
    monkeypatch.delenv("DSPEX_MODEL_LIMITS")
    Path("dspex.toml").write_text('[model_limits."http://host/v1"]\nconcurrency = 8\n')
    assert Settings.load().model_limits["http://host/v1"].concurrency == 8


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DSPEX_MCP_SERVERS", '{"mcp+stdio://time": {}}', "a stdio server has a command"),
        ("DSPEX_MCP_SERVERS", '{"mcp+https://host/mcp": {"command": ["id"]}}', "a stdio server has a command"),
        ("DSPEX_MCP_SERVERS", '{"https://host/mcp": {}}', "not of the form"),
        ("DSPEX_CODE_INTERPRETER", "deno", "not of the form package.module:factory"),
    ],
)
def test_what_workers_run_for_programs_is_checked(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=words):
        Settings.load()


def test_a_file_that_is_not_toml_is_one_mistake() -> None:
    Path("dspex.toml").write_text("= 7")
    with pytest.raises(ConfigurationError, match=r"dspex\.toml"):
        Settings.load()


def test_a_file_with_a_byte_order_mark_is_read() -> None:
    Path("dspex.toml").write_bytes(codecs.BOM_UTF8 + b"lease_seconds = 7\r\n")
    assert Settings.load().lease_seconds == 7


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.mkdir, "it is a directory"),
        (os.mkfifo, "it is not a regular file"),
        (lambda path: path.symlink_to("missing.toml"), ".*No such file"),
        (lambda path: path.symlink_to(path), ".*symbolic links"),
    ],
)
def test_what_is_no_file_or_cannot_be_opened_is_not_ignored(make: Callable[[Path], None], reason: str) -> None:
    make(Path("dspex.toml"))
    with pytest.raises(ConfigurationError, match=rf"dspex\.toml cannot be read: {reason}"):
        Settings.load()


def test_without_a_file_no_setting_comes_from_one() -> None:
    assert "dspex.toml" not in Settings.load().origins.values()


def test_production_has_no_default_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_ENV", "production")
    with pytest.raises(ConfigurationError) as wrong:
        Settings.load()
    assert len(wrong.value.errors) == 2


def test_one_url_alone_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="DSPEX_BROKER_URL is not set"):
        Settings.load(database_url=URLS["database_url"])


def test_without_urls_and_without_a_stack_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="dspex up"):
        Settings.load(home=tmp_path / "nothing").backends()


def test_an_unknown_variable_is_named_with_its_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_LEASE_SECOND", "7")
    assert "DSPEX_LEASE_SECOND is not a setting; did you mean DSPEX_LEASE_SECONDS?" in unknown_variables()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@h:1/d", "postgresql://u:***@h:1/d"),
        ("redis://:p%40x@h/0", "redis://:***@h/0"),
        ("redis://h/0", "redis://h/0"),
    ],
)
def test_a_shown_url_has_no_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_a_secret_is_read_from_the_file_that_a_variable_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, url in URLS.items():
        (tmp_path / name).write_text(f"{url}\n")
        monkeypatch.setenv(f"DSPEX_{name.upper()}_FILE", str(tmp_path / name))
    settings = Settings.load()
    assert settings.backends() == Backends((URLS["database_url"], URLS["broker_url"]))
    assert settings.origins["database_url"] == f"file {tmp_path / 'database_url'}"
    assert unknown_variables() == []


@pytest.mark.parametrize(
    ("content", "fault"), [(None, "No such file"), ("", "is empty"), (b"\xff\xfe", "it is not text")]
)
def test_a_file_that_holds_no_secret_is_a_mistake(
    content: str | bytes | None, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.setenv("DSPEX_DATABASE_URL_FILE", str(path))
    monkeypatch.setenv("DSPEX_LEASE_SECONDS", "soon")
    with pytest.raises(ConfigurationError, match=fault) as wrong:
        Settings.load(broker_url=URLS["broker_url"])
    assert len(wrong.value.errors) == 2  # and not, once more, that the URL is missing


def test_a_variable_and_its_file_together_are_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_DATABASE_URL", URLS["database_url"])
    monkeypatch.setenv("DSPEX_DATABASE_URL_FILE", "/run/secrets/database_url")
    with pytest.raises(ConfigurationError, match="are both set"):
        Settings.load(broker_url=URLS["broker_url"])


@pytest.fixture
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / f"vault_{tmp_path.name}.py"
    path.write_text(
        f"def fetch(name): return { ({f'DSPEX_{name.upper()}': url for name, url in URLS.items()})!r}.get(name)\n"
        "def broken(name): raise OSError('the vault is sealed')\n"
        "def number(name): return 7\n"
        "constant = 7\n"
    )
    return path


def test_a_provider_is_asked_for_what_is_nowhere_else(vault: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_SECRETS", f"{vault.stem}:fetch")
    monkeypatch.setenv("DSPEX_BROKER_URL", "redis://elsewhere/0")
    settings = Settings.load()
    assert settings.backends() == Backends((URLS["database_url"], "redis://elsewhere/0"))
    assert settings.origins["database_url"] == f"provider {vault.stem}:fetch"
    assert settings.origins["broker_url"] == "environment"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (":broken", "OSError: the vault is sealed"),
        (":number", "returned a int, not a str"),
        (":missing", "AttributeError"),
        (":constant", "not a function"),
        ("_nowhere:fetch", "ModuleNotFoundError"),
        ("", "has an entry point"),
    ],
)
def test_a_provider_that_does_not_work_is_a_mistake(
    name: str, fault: str, vault: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPEX_SECRETS", f"{vault.stem}{name}")
    with pytest.raises(ConfigurationError, match=fault):
        Settings.load()


def test_a_process_that_calls_no_model_gets_no_keys_of_models() -> None:
    providers = {name for provider in PROVIDERS.values() for name in getattr(provider, "env_keys", ())}
    assert "OPENAI_API_KEY" in providers
    keys = {*providers, "TEAM_KEY", "GATEWAY_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS", "AWS_SECRET_ACCESS_KEY"}
    kept = {
        "PATH", "HOME", "DSPEX_ENCRYPTION_KEY", "DSPEX_FLOWER_PASSWORD", "FLOWER_OAUTH2_KEY", "PGPASSWORD",
        "SSL_CERT_FILE", "HTTPS_PROXY", "PYTHONPATH", "KEYBOARD", "OTEL_EXPORTER_OTLP_ENDPOINT",
    }  # fmt: skip
    given = dict.fromkeys({*keys, *(f"{name}_FILE" for name in keys), "azure_api_key", *kept}, "x")
    assert set(without_model_keys(given)) == kept
    vault = {"VAULT_TOKEN": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    left = without_model_keys({**dict.fromkeys(providers, "x"), **vault}, has_provider=True)
    assert left == vault  # a provider of secrets needs its own


def test_no_secret_is_shown() -> None:
    urls = {"database_url": "postgresql://u:hunter22@h/d", "broker_url": "rediss://:hunter22@h/0?ssl_password=hunter22"}
    settings = Settings.load(**urls, alert_webhook_url="https://hooks.example/hunter22")
    assert "hunter22" not in repr(settings) + str(settings) + settings.model_dump_json() + repr(settings.backends())
    for url in ("postgresql://h/d?password=hunter22", "rediss://h?db=1&ssl_password=hunter22"):
        assert "hunter22" not in without_password(url)


@pytest.mark.parametrize(
    ("urls", "faults"),
    [
        (URLS, 2),
        ({"database_url": "postgresql://u:p@h/d?sslmode=require", "broker_url": "rediss://h/0"}, 0),
        ({"database_url": "postgresql://u:p@localhost/d", "broker_url": "redis://127.0.0.1/0"}, 0),
        ({"database_url": "postgresql:///d?host=/run/postgresql", "broker_url": "redis://[::1]/0"}, 0),
        ({"database_url": "postgresql:///d?host=/run,db2", "broker_url": "redis://127.0.0.1/0"}, 1),
    ],
)
def test_production_refuses_connections_that_may_go_without_tls(urls: dict[str, str], faults: int) -> None:
    assert Settings.load(**urls, env="production", allow_plain_text=True)
    if not faults:
        Settings.load(**urls, env="production")
        return
    with pytest.raises(ConfigurationError, match="DSPEX_ALLOW_PLAIN_TEXT=true") as wrong:
        Settings.load(**urls, env="production")
    assert len(wrong.value.errors) == faults


def test_who_is_not_verified_is_warned_of() -> None:
    good = ("postgresql://h/d?sslmode=verify-full", "rediss://h/0")
    assert connection_warnings(*good) == []
    for database_url, broker_url in (
        ("postgresql://h/d?sslmode=require", good[1]),
        (good[0], "rediss://h/0?ssl_cert_reqs=none"),
        (good[0], "rediss://h/0?ssl_check_hostname=false"),
    ):
        assert "do not verify the identity" in "".join(connection_warnings(database_url, broker_url))


@pytest.mark.parametrize(
    "url", ["postgresql://u:p/w@h/d", "postgresql://h/d?sslrootcert=/nothing/ca.pem", "postgresql://h:port/d"]
)
def test_a_url_that_leads_nowhere_is_a_mistake(url: str) -> None:
    with pytest.raises(ConfigurationError, match="DSPEX_DATABASE_URL"):
        Settings.load(database_url=url, broker_url=URLS["broker_url"])
