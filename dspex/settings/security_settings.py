"""Settings for security: limits of what is accepted, and encryption."""

from __future__ import annotations

import base64
import binascii
import os
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, SecretStr

__all__ = ["KEY_BYTES", "SecuritySettings", "new_key", "read_keys", "security_faults"]

#: The length of an encryption key.
KEY_BYTES = 32


def _keys(text: SecretStr) -> SecretStr:
    read_keys(text.get_secret_value())
    return text


class SecuritySettings(BaseModel):
    """Security and limits."""

    secrets: str | None = Field(
        None,
        description="The provider for secrets that are set neither by a variable nor by a file: "
        "package.module:function, or "
        "the name of an entry point of the group dspex.secrets.",
    )
    max_input_bytes: int = Field(
        10 * 1024 * 1024,
        ge=1024,
        le=256 * 1024 * 1024,
        description="The largest size of the inputs of an execution, as JSON.",
    )
    max_input_depth: int = Field(
        64, ge=4, le=500, description="The deepest nesting of lists and mappings in inputs and metadata."
    )
    max_input_items: int = Field(
        200_000,
        ge=100,
        le=10_000_000,
        description="The largest number of values in the inputs of an execution, keys included.",
    )
    max_metadata_bytes: int = Field(
        64 * 1024, ge=1024, le=4 * 1024 * 1024, description="The largest size of the metadata of an execution, as JSON."
    )
    max_program_bytes: int = Field(
        8 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024, description="The largest size of a program, as JSON."
    )
    max_batch_rows: int = Field(100_000_000, ge=1, le=2**32 - 2, description="The largest number of rows in a batch.")
    rate_limit_per_minute: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="How many executions one client may submit per minute. Not set: no limit.",
    )
    rate_limit_burst: int = Field(
        100,
        ge=1,
        le=1_000_000,
        description="How many executions may be submitted at once before the rate limit applies.",
    )
    client: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.@:-]{1,100}$",
        description="The name of this client for the rate limit; by default user@host.",
    )
    encryption_key: Annotated[SecretStr, AfterValidator(_keys)] | None = Field(
        None,
        description="The key that encrypts secret fields: 32 bytes in base64 (`dspex encryption key` prints one). Of "
        "several, "
        "separated by commas, the first encrypts and all decrypt.",
    )
    encrypt: Literal["secret", "all"] = Field(
        "secret", description="The fields that are encrypted: those marked secret, or all."
    )


def security_faults(settings: SecuritySettings) -> list[str]:
    """Faults in the combination of these settings."""
    if settings.encrypt == "all" and settings.encryption_key is None:
        return ["DSPEX_ENCRYPT is all, but DSPEX_ENCRYPTION_KEY is not set"]
    return []


def new_key() -> str:
    """A random key, as DSPEX_ENCRYPTION_KEY takes it."""
    return base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode()


def read_keys(text: str) -> list[bytes]:
    """The keys of DSPEX_ENCRYPTION_KEY. Raises ValueError, whose message contains nothing of them."""
    keys = []
    for number, part in enumerate(text.split(","), 1):
        try:
            key = base64.b64decode(part.strip().replace("-", "+").replace("_", "/"), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            raise ValueError(f"key {number} is not {KEY_BYTES} bytes in base64: make one with `dspex encryption key`")
        keys.append(key)
    return keys
