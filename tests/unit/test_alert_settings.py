"""The settings of alerts: thresholds, channels, and what they lack."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dspex.errors import ConfigurationError
from dspex.settings import Settings

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "get-alerted.md"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_thresholds_come_from_the_environment_or_the_file_and_a_program_may_have_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("dspex.toml").write_text(
        'alerts = ["log"]\n'
        '[alert_thresholds]\nerror_rate = 0.2\nqueue_age_seconds = "off"\n'
        '[alert_thresholds.programs.slow]\nexecution_time_seconds = 120\nerror_rate = "off"\n'
    )
    thresholds = Settings.load().alert_thresholds
    assert thresholds.of("any", "error_rate") == 0.2
    assert thresholds.of("any", "queue_age_seconds") is None
    assert thresholds.of("slow", "execution_time_seconds") == 120
    assert thresholds.of("slow", "error_rate") is None
    assert thresholds.of("slow", "queue_age_seconds") is None, "what it does not name is that of all"
    assert thresholds.of("any", "execution_time_seconds") == 30, "the default"
    assert not thresholds.watches_cost
    monkeypatch.setenv("DSPEX_ALERT_THRESHOLDS", '{"programs": {"dear": {"cost_per_hour_usd": 20}}}')
    assert Settings.load().alert_thresholds.watches_cost


def test_the_example_of_the_how_to_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", HOW_TO.read_text(), re.DOTALL)
    Path("dspex.toml").write_text(example)
    secret = Path("smtp-url")
    secret.write_text("smtps://me:hunter22@mail.example.com\n")
    monkeypatch.setenv("DSPEX_SMTP_URL_FILE", str(secret))
    monkeypatch.setenv("DSPEX_ALERT_WEBHOOK_URL", "https://hooks.example.com/hunter22")
    settings = Settings.load()
    assert settings.alerts == ("log", "email", "webhook")
    assert settings.alert_thresholds.of("nightly_labels", "execution_time_seconds") == 600
    assert "hunter22" not in repr(settings)


def test_channels_and_what_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load().alerts == ("log",)
    monkeypatch.setenv("DSPEX_ALERTS", "none")
    assert Settings.load().alerts == ()
    monkeypatch.setenv("DSPEX_ALERTS", "log, email,webhook")
    monkeypatch.setenv("DSPEX_ALERT_EMAIL_TO", "a@example.com, b@example.com")
    with pytest.raises(ConfigurationError) as wrong:
        Settings.load()
    assert wrong.value.errors == (
        "DSPEX_ALERTS has email, which needs DSPEX_SMTP_URL",
        "DSPEX_ALERTS has email, which needs DSPEX_ALERT_EMAIL_FROM",
        "DSPEX_ALERTS has webhook, which needs DSPEX_ALERT_WEBHOOK_URL",
    )


def test_wrong_addresses_are_refused_without_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_SMTP_URL", "smtp://me:hunter22@mail.example.com")
    monkeypatch.setenv("DSPEX_ALERT_WEBHOOK_URL", "hooks.example.com/hunter22")
    monkeypatch.setenv("DSPEX_ALERT_EMAIL_TO", "nobody")
    with pytest.raises(ConfigurationError) as wrong:
        Settings.load()
    assert len(wrong.value.errors) == 3
    assert "a password would travel unencrypted: use smtp+starttls:// or smtps://" in str(wrong.value)
    assert "not an address: 'nobody'" in str(wrong.value)
    assert "hunter22" not in str(wrong.value)
