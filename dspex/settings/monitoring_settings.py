"""Settings for health checks, monitoring and alerts."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import NoDecode

from dspex.settings.setting_names import listed, variable

__all__ = ["AlertSettings", "AlertThresholds", "MonitoringSettings", "ProgramThresholds", "alert_faults"]

ChannelName = Literal["log", "email", "webhook"]
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


#: An alert fires above this value; "off" (None) disables it.
Threshold = Annotated[Annotated[float, Field(ge=0)] | None, BeforeValidator(_or_off)]
Addresses = Annotated[tuple[str, ...], NoDecode, BeforeValidator(listed), AfterValidator(_addresses)]


class ProgramThresholds(BaseModel):
    """Alert thresholds of a program. ``"off"`` disables an alert."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: The 95th percentile of the run time.
    execution_time_seconds: Threshold = 30.0
    #: The share of failed executions: 0.05 is 5 %.
    error_rate: Threshold = 0.05
    #: The waiting time of the oldest due execution.
    queue_age_seconds: Threshold = 300.0
    #: The cost of model calls per hour.
    cost_per_hour_usd: Threshold = None


class AlertThresholds(ProgramThresholds):
    """Alert thresholds of all programs and of the deployment; ``programs`` overrides them for single programs."""

    worker_memory_mb: Threshold = 1000.0
    dead_workers: Threshold = 0
    poisoned_executions: Threshold = 0
    #: Whether an unhealthy component raises an alert.
    unhealthy: bool = True
    #: A program with fewer executions in the window raises no alert for its run time or its error rate.
    min_executions: int = Field(default=5, ge=1)
    programs: dict[str, ProgramThresholds] = Field(default_factory=dict)

    def of(self, program: str, name: str) -> float | None:
        """The threshold for a program: its own one, otherwise the common one."""
        own = self.programs.get(program)
        chosen = own if own is not None and name in own.model_fields_set else self
        value: float | None = getattr(chosen, name)
        return value

    @property
    def watches_cost(self) -> bool:
        return any(each.cost_per_hour_usd is not None for each in (self, *self.programs.values()))


class MonitoringSettings(BaseModel):
    """Health and monitoring."""

    health_interval_seconds: float = Field(15.0, ge=1, le=3600, description="How often beat checks the health.")
    http_port: int | None = Field(
        None,
        ge=1,
        le=65_535,
        description="The port for /health/live, /health/ready, /health and /metrics of a worker. Not set: no port. "
        "The second process of `dspex worker` uses the next port, and so on.",
    )
    http_address: str = Field(
        "127.0.0.1", description="The address of DSPEX_HTTP_PORT; 0.0.0.0 to accept connections from other hosts."
    )
    trace_to_models: bool = Field(
        False,
        description="Send the header `traceparent` with each request to a model, for your own servers that support "
        "tracing. "
        "Tracing itself is configured by `OTEL_*`.",
    )


class AlertSettings(BaseModel):
    """Alerts."""

    alerts: Annotated[tuple[ChannelName, ...], NoDecode, BeforeValidator(_channels)] = Field(
        ("log",), description="The channels that alerts are sent to, separated by commas: log, email, webhook; or none."
    )
    alert_thresholds: AlertThresholds = Field(
        default_factory=AlertThresholds,
        description='Alert thresholds, as JSON; "off" disables an alert: {"error_rate": 0.1, '
        '"queue_age_seconds": "off", "cost_per_hour_usd": 20, '
        '"programs": {"slow_one": {"execution_time_seconds": 120}}}.',
    )
    alert_interval_seconds: float = Field(30.0, ge=1, le=3600, description="How often beat evaluates alerts.")
    alert_window_seconds: float = Field(
        300.0,
        ge=10,
        le=86_400,
        description="The period that alerts look at: executions that ended and workers that died within it.",
    )
    alert_after_seconds: float = Field(
        60.0,
        ge=0,
        le=86_400,
        description="How long a figure must be above its threshold before the alert fires, and below it before the "
        "alert "
        "resolves. Dead workers and poisoned executions fire at once.",
    )
    alert_reminder_seconds: float | None = Field(
        None, ge=60, description="How often the notification of a firing alert is repeated. Not set: never."
    )
    alert_email_to: Addresses = Field((), description="The recipients of alert emails, separated by commas.")
    alert_email_from: str | None = Field(None, description="The sender of alert emails.")
    smtp_url: Annotated[SecretStr, AfterValidator(_smtp_url)] | None = Field(
        None,
        description="The mail server: smtps://user:password@host:465, smtp+starttls://user:password@host:587, "
        "or smtp://host:25, which is not encrypted.",
    )
    alert_webhook_url: Annotated[SecretStr, AfterValidator(_http_url)] | None = Field(
        None,
        description="The URL that alerts are posted to as JSON, such as an incoming webhook of Slack or Mattermost.",
    )
    alert_webhook_secret: SecretStr | None = Field(
        None,
        description="The key that signs webhook requests as defined by standardwebhooks.com: whsec_ and base64, or "
        "any text.",
    )


def alert_faults(settings: AlertSettings) -> list[str]:
    """Settings that are missing for an enabled channel."""
    needed = {"email": ("smtp_url", "alert_email_to", "alert_email_from"), "webhook": ("alert_webhook_url",)}
    return [
        f"{variable('alerts')} has {channel}, which needs {variable(name)}"
        for channel in settings.alerts
        for name in needed.get(channel, ())
        if not getattr(settings, name)
    ]
