"""The two adapters that call models, in the process of the test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from workers.adapters.contract import Adapter
from workers.adapters.direct.direct_adapter import DirectAdapter
from workers.adapters.dspy.dspy_adapter import DspyAdapter

__all__ = ["adapters"]


@pytest.fixture
async def adapters() -> AsyncIterator[dict[str, Adapter]]:
    """Each by its name."""
    made: dict[str, Adapter] = {"dspy": DspyAdapter(), "direct": DirectAdapter()}
    yield made
    for adapter in made.values():
        await adapter.close()
