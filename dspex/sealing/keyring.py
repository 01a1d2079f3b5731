"""Keys and sealed tokens: AES-256-GCM, each token bound to the place where it is stored.

A token is text: ``1.KEY.DATA``, with the id of the key that sealed it. DATA holds 16 random bytes, from which a
key for this token is derived (so one key may seal without limit), a nonce and the
ciphertext. The context, such as ``EXECUTION:inputs``, is not part of the token but is needed to open it: a token that
was moved to another row or column does not open.

The ``cryptography`` package is loaded with the first key: a process without one does not need it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dspex.errors import EncryptionError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["Keyring"]

VERSION = "1"
_SALT_BYTES = 16
_NONCE_BYTES = 12


class Keyring:
    """The first of ``keys`` seals, all of them open. Raises EncryptionError without the ``cryptography`` package."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = {_key_id(key): key for key in keys}
        self.primary = _key_id(keys[0])
        self._cipher = _cipher()

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of the keys, which reveal nothing of them; the first key seals."""
        return tuple(self._keys)

    def seal(self, plain: bytes, context: str) -> str:
        """The token of ``plain`` for this place."""
        salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
        sealed = self._of(self.primary, salt).encrypt(nonce, plain, context.encode())
        return f"{VERSION}.{self.primary}.{base64.urlsafe_b64encode(salt + nonce + sealed).decode()}"

    def open(self, token: str, context: str) -> bytes:
        """The sealed bytes. Raises EncryptionError: ``encryption_key_unknown`` or ``sealed_data_damaged``."""
        from cryptography.exceptions import InvalidTag

        version, _, rest = str(token).partition(".")
        key_id, _, data = rest.partition(".")
        if version == VERSION and key_id not in self._keys:
            raise EncryptionError(
                f"{context} is sealed with key {key_id!r}, which is not among DSPEX_ENCRYPTION_KEY "
                f"({', '.join(self._keys)}): add it after the others",
                code="encryption_key_unknown", key=key_id,
            )  # fmt: skip
        try:
            raw = base64.urlsafe_b64decode(data)
            salt, nonce, sealed = raw[:_SALT_BYTES], raw[_SALT_BYTES:][:_NONCE_BYTES], raw[_SALT_BYTES + _NONCE_BYTES :]
            return self._of(key_id, salt).decrypt(nonce, sealed, context.encode())
        except (InvalidTag, ValueError, KeyError):
            raise EncryptionError(
                f"{context} cannot be opened: it was changed, or moved here from another place",
                code="sealed_data_damaged",
            ) from None

    def digest(self, data: bytes) -> bytes:
        """A hash that depends on the first key."""
        return hmac.digest(self._keys[self.primary], b"dspex digest" + data, "sha256")

    def _of(self, key_id: str, salt: bytes) -> AESGCM:
        return self._cipher(hmac.digest(self._keys[key_id], salt, "sha256"))


def _cipher() -> type[AESGCM]:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise EncryptionError(
            "DSPEX_ENCRYPTION_KEY needs the cryptography package: pip install 'dspex[encryption]'",
            code="encryption_unavailable",
        ) from None
    return AESGCM


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"dspex key id" + key).hexdigest()[:8]
