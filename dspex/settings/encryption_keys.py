"""The keys of DSPEX_ENCRYPTION_KEY: 32 random bytes each, in base64."""

from __future__ import annotations

import base64
import binascii
import os

__all__ = ["KEY_BYTES", "new_key", "read_keys"]

KEY_BYTES = 32


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
