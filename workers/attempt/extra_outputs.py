"""What a program gave besides its outputs: kept with its results, as far as it is JSON and not large."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["EXTRA_BYTES_MOST", "kept_extra"]

#: The most bytes of JSON that are kept. The longest values are left out first: they are the steps of agents.
EXTRA_BYTES_MOST = 256 * 1024


def kept_extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    """The values to keep, by name."""
    sizes = {name: size for name, value in extra.items() if (size := _size(value)) is not None}
    while sum(sizes.values()) > EXTRA_BYTES_MOST:
        del sizes[max(sizes, key=sizes.__getitem__)]
    return {name: extra[name] for name in sizes}


def _size(value: Any) -> int | None:
    """The length as JSON; None for what is none."""
    try:
        return len(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return None
