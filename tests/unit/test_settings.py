"""Settings: where they come from, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from dspex.errors import BackendUnavailable, ConfigurationError
from dspex.settings import Settings, unknown_variables, without_password

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


def test_a_file_that_is_not_toml_is_one_mistake() -> None:
    Path("dspex.toml").write_text("= 7")
    with pytest.raises(ConfigurationError, match=r"dspex\.toml"):
        Settings.load()


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
