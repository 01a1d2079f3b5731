"""The parameters of the functions that a program is made of: its tools, its metric, its module."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["signature_of"]


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """As ``inspect.signature``, with annotations that are not evaluated: from Python 3.14 on it would do that, and an
    annotation may name what exists for type checkers only."""
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        return inspect.signature(function, annotation_format=Format.STRING)
    return inspect.signature(function)
