"""Settings of crash tests and the demo."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from dspex.settings import failpoints

__all__ = ["TrialSettings"]


def _failpoints(spec: str) -> str:
    failpoints.parse(spec)
    return spec


class TrialSettings(BaseModel):
    """Demo and crash tests."""

    failpoints: Annotated[str, AfterValidator(_failpoints)] = Field(
        "",
        description="For crash tests: where this process dies (dspex/settings/failpoints.py). Refused in production.",
    )
    demo_model: str | None = Field(None, description="The model of `dspex demo`, instead of the one it chooses.")
