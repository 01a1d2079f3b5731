"""Settings for programs and models."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FilePath
from pydantic_settings import NoDecode

from dspex.settings.setting_names import listed

__all__ = ["McpServer", "ModelLimits", "ModelSettings"]


def _packages(names: tuple[str, ...]) -> tuple[str, ...]:
    if wrong := [name for name in names if not all(part.isidentifier() for part in name.split("."))]:
        raise ValueError(f"not the name of a package: {', '.join(map(repr, wrong))}")
    if any(name.partition(".")[0] == "workers" for name in names):
        raise ValueError("'workers' is DSPex's own package in its processes: rename yours")
    return names


def _factory(reference: str | None) -> str | None:
    if reference is not None and not re.fullmatch(r"\w+(\.\w+)*:\w+", reference):
        raise ValueError("not of the form package.module:factory")
    return reference


class ModelLimits(BaseModel):
    """The limits of a model for all workers together: concurrent calls, and calls and tokens per minute."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    concurrency: int | None = Field(default=None, ge=1)
    per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)


class McpServer(BaseModel):
    """An MCP server that programs may take tools from: the command that starts it, or the headers for its address."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    headers: dict[str, str] = Field(default_factory=dict)


def _mcp_servers(servers: dict[str, McpServer]) -> dict[str, McpServer]:
    for name, server in servers.items():
        if not re.fullmatch(r"mcp\+(stdio://[\w.-]+|https?://[^\s#]+)", name):
            raise ValueError(f"{name!r} is not of the form mcp+https://host/path or mcp+stdio://name")
        if name.startswith("mcp+stdio:") != bool(server.command):
            raise ValueError(f"{name!r}: a stdio server has a command, and no other server has one")
    return servers


class ModelSettings(BaseModel):
    """Programs and models."""

    batch_fill_seconds: float = Field(
        30.0, ge=0, le=3600, description="How long requests for a provider's batch API wait for others."
    )
    batch_requests: int = Field(50_000, ge=1, le=100_000, description="The most requests of one bundle.")
    batch_bytes: int = Field(
        200_000_000, ge=1000, le=256_000_000, description="The most bytes of the requests of one bundle."
    )
    batch_poll_seconds: float = Field(
        10.0,
        ge=0.05,
        le=300,
        description="The first pause between two looks at a provider's batch; later ones are longer, up to 5 minutes.",
    )
    batch_settle_seconds: float = Field(
        90.0,
        ge=0.5,
        le=3600,
        description="After a leader died while it created a batch: how long the batch may take to be in the provider's "
        "list. Then it counts as not created.",
    )

    program_packages: Annotated[tuple[str, ...], NoDecode, BeforeValidator(listed), AfterValidator(_packages)] = Field(
        (), description="The packages that programs may load code from, separated by commas: acme.programs,tools."
    )
    code_interpreter: Annotated[str | None, AfterValidator(_factory)] = Field(
        None,
        description="What runs the code that models write, on workers: package.module:factory, which makes a DSPy "
        "interpreter. Not set: Deno's sandbox (the extra `code`).",
    )
    mcp_servers: Annotated[dict[str, McpServer], AfterValidator(_mcp_servers)] = Field(
        default_factory=dict,
        description="The MCP servers whose tools programs may name, on workers, as JSON: "
        '{"mcp+stdio://time": {"command": ["uvx", "mcp-server-time"], "environment": ["TZ"]}, '
        '"mcp+https://mcp.example.com/mcp": {"headers": {"Authorization": "Bearer ${MCP_TOKEN}"}}}.',
    )
    model_limits: dict[str, ModelLimits] = Field(
        default_factory=dict,
        description="Limits of models or addresses for all workers together, as JSON: "
        '{"openai/gpt-4o-mini": {"concurrency": 50, "per_minute": 500, "tokens_per_minute": 200000}}.',
    )
    max_retry_after_seconds: float = Field(
        900.0,
        ge=1,
        le=86_400,
        description="The longest delay before another attempt that a provider may ask for (`Retry-After`).",
    )
    ca_file: FilePath | None = Field(
        None,
        description="Certificates (PEM) of certificate authorities to trust for model servers, in addition to the "
        "system's.",
    )
    local_model_url: str | None = Field(
        None, description="The URL of a server for smollm2 outside the embedded stack: http://host:port/v1."
    )
