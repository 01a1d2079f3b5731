"""Settings of alerts: when to tell, and whom."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import NoDecode

from dspex.settings.setting_names import listed, variable

__all__ = ["AlertSettings", "AlertThresholds", "ProgramThresholds", "alert_faults"]

Channel = Literal["log", "email", "webhook"]
SMTP_SCHEMES = ("smtp", "smtp+starttls", "smtps")


def _channels(given: Any) -> Any:
    return () if given == "none" else listed(given)


def _or_off(given: Any) -> Any:
    return None if given == "off" else given


def _smtp_url(secret: SecretStr) -> SecretStr:
    parts = urlsplit(secret.get_secret_value())
    if parts.scheme not in SMTP_SCHEMES or not parts.hostname:
        raise ValueError(f"must be {', '.join(f'{scheme}://host' for scheme in SMTP_SCHEMES)}, with or without a port")
    if parts.password and parts.scheme == "smtp":
        raise ValueError("a password would travel unencrypted: use smtp+starttls:// or smtps://")
    return secret


def _http_url(secret: SecretStr) -> SecretStr:
    parts = urlsplit(secret.get_secret_value())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be https://host/path or http://host/path")
    return secret


def _addresses(given: tuple[str, ...]) -> tuple[str, ...]:
    if wrong := [address for address in given if address.count("@") != 1 or not address.isprintable()]:
        raise ValueError(f"not an address: {', '.join(map(repr, wrong))}")
    return given


#: An alert fires above it; "off" (None) never.
Threshold = Annotated[Annotated[float, Field(ge=0)] | None, BeforeValidator(_or_off)]
Addresses = Annotated[tuple[str, ...], NoDecode, BeforeValidator(listed), AfterValidator(_addresses)]


class ProgramThresholds(BaseModel):
    """What is watched of each program; each is ``"off"`` or a figure above which an alert fires."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: The 95th percentile of how long executions ran.
    execution_time_seconds: Threshold = 30.0
    #: Failed executions as a part of those that ended: 0.05 is 5 %.
    error_rate: Threshold = 0.05
    #: How long the oldest execution that is due has waited.
    queue_age_seconds: Threshold = 300.0
    #: What model calls cost within an hour.
    cost_per_hour_usd: Threshold = None


class AlertThresholds(ProgramThresholds):
    """Those of every program, those of the deployment, and ``programs``: those of one program that are its own."""

    worker_memory_mb: Threshold = 1000.0
    dead_workers: Threshold = 0
    poisoned_executions: Threshold = 0
    #: Whether a component that its health check finds at fault is an alert.
    unhealthy: bool = True
    #: A program of which fewer executions ended within the window is judged neither by its time nor by its errors.
    min_executions: int = Field(default=5, ge=1)
    programs: dict[str, ProgramThresholds] = Field(default_factory=dict)

    def of(self, program: str, name: str) -> float | None:
        """A program's own threshold, or else that of all programs."""
        own = self.programs.get(program)
        chosen = own if own is not None and name in own.model_fields_set else self
        value: float | None = getattr(chosen, name)
        return value

    @property
    def watches_cost(self) -> bool:
        return any(each.cost_per_hour_usd is not None for each in (self, *self.programs.values()))


class AlertSettings(BaseModel):
    """Alerts."""

    alerts: Annotated[tuple[Channel, ...], NoDecode, BeforeValidator(_channels)] = Field(
        ("log",), description="Where alerts are told, with commas between: log, email, webhook; or none."
    )
    alert_thresholds: AlertThresholds = Field(
        default_factory=AlertThresholds,
        description='Above what an alert fires, as JSON; "off" for never: {"error_rate": 0.1, '
        '"queue_age_seconds": "off", "cost_per_hour_usd": 20, '
        '"programs": {"slow_one": {"execution_time_seconds": 120}}}.',
    )
    alert_interval_seconds: float = Field(30.0, ge=1, le=3600, description="How often beat has alerts evaluated.")
    alert_window_seconds: float = Field(
        300.0, ge=10, le=86_400, description="Executions that ended, and workers that died, within so long are judged."
    )
    alert_after_seconds: float = Field(
        60.0,
        ge=0,
        le=86_400,
        description="A figure above its threshold for so long fires; below it for so long, it resolves. "
        "Dead workers and poisoned executions fire at once.",
    )
    alert_reminder_seconds: float | None = Field(
        None, ge=60, description="An alert that still fires is told again after so long; unset, it is told once."
    )
    alert_email_to: Addresses = Field((), description="Who gets alerts by email, with commas between the addresses.")
    alert_email_from: str | None = Field(None, description="The sender of these emails.")
    smtp_url: Annotated[SecretStr, AfterValidator(_smtp_url)] | None = Field(
        None,
        description="The mail server: smtps://user:password@host:465, smtp+starttls://user:password@host:587, "
        "or smtp://host:25, which is not encrypted.",
    )
    alert_webhook_url: Annotated[SecretStr, AfterValidator(_http_url)] | None = Field(
        None, description="Where alerts are posted as JSON; Slack's and Mattermost's incoming webhooks will do."
    )
    alert_webhook_secret: SecretStr | None = Field(
        None, description="Signs what is posted, as standardwebhooks.com says: whsec_ and base64, or any text."
    )


def alert_faults(settings: AlertSettings) -> list[str]:
    """What a channel that was asked for lacks."""
    needed = {"email": ("smtp_url", "alert_email_to", "alert_email_from"), "webhook": ("alert_webhook_url",)}
    return [
        f"{variable('alerts')} has {channel}, which needs {variable(name)}"
        for channel in settings.alerts
        for name in needed.get(channel, ())
        if not getattr(settings, name)
    ]
