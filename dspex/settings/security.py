"""Settings of security: what is refused, and what is kept secret."""

from __future__ import annotations

from pydantic import BaseModel, Field

__all__ = ["SecuritySettings"]


class SecuritySettings(BaseModel):
    """Security and limits."""

    max_input_bytes: int = Field(
        10 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024, description="The largest inputs of one execution, as JSON."
    )
