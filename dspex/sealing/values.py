"""Sealing of an execution's values before they are stored, and reading them again.

The values of fields marked ``secret`` (or of all fields, with ``DSPEX_ENCRYPT=all``) are sealed in inputs and result.
If a signature has such a field, the answers of models, the results of actions and the messages of errors are sealed as
a whole, because each may quote a value. A stored JSON object keeps its other members, and gets one more, whose name no
field can have: ``{"question": "…", "dspex:sealed": TOKEN}``. See keyring.py for tokens.

Without a key the sealed values read as ``<secret>``; commands that show executions never show more.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from dspex.errors import EncryptionError
from dspex.program.program import Program
from dspex.sealing.keyring import Keyring
from dspex.settings import Settings
from dspex.settings.security_settings import read_keys
from dspex.signatures.compiled import Side, Signature

__all__ = ["PLACEHOLDER", "SEALED", "SealedAttempt", "Sealing", "is_sealed", "reseal"]

#: A sealed value without the key, and in the output of commands.
PLACEHOLDER = "<secret>"
SEALED = "dspex:sealed"
#: Sealed with the inputs: the key of the hashes of the execution's model requests, independent of the sealing key.
_SALT = "dspex:salt"
_SALT_BYTES = 16
_COLUMNS = {"inputs": "inputs", "outputs": "result"}
_SEALED_TEXT = "its text is sealed, as it may quote a secret: read `error` with a client that has the encryption key"


@dataclass(frozen=True, slots=True)
class Sealing:
    """The keys that this process seals and opens with. ``everything``: seal all fields, not only secret ones."""

    keyring: Keyring | None = None
    everything: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Sealing:
        """The sealing that the settings configure."""
        if settings.encryption_key is None:
            return cls()
        return cls(Keyring(read_keys(settings.encryption_key.get_secret_value())), settings.encrypt == "all")

    def covers(self, signature: Signature) -> bool:
        """Whether any value of the program's executions is sealed."""
        return self.everything or bool(signature.secret_fields)

    def require(self, program: Program) -> None:
        """Raise EncryptionError if the program has secret fields and there is no key to seal them with."""
        if self.keyring is None and program.signature.secret_fields:
            names = ", ".join(sorted(program.signature.secret_fields))
            raise EncryptionError(
                f"program {program.name!r} has secret fields ({names}), and DSPEX_ENCRYPTION_KEY is not set: make one "
                "with `dspex encryption key`, and give it to clients and workers",
                code="encryption_key_missing", program=program.name,
            )  # fmt: skip

    def hidden(self, signature: Signature, side: Side) -> frozenset[str]:
        """The names of the sealed fields of a side."""
        return frozenset(f.name for f in signature.fields(side) if self.everything or f.secret)

    def seal_values(self, signature: Signature, side: Side, encoded: bytes, id: UUID) -> str:
        """The text to store for these encoded values, for a signature that :meth:`covers`."""
        values = json.loads(encoded)
        hidden = self.hidden(signature, side)
        apart = {name: values.pop(name) for name in hidden & values.keys()}
        if side == "inputs":
            apart[_SALT] = os.urandom(_SALT_BYTES).hex()
        return _text({**values, SEALED: self._ring.seal(_text(apart).encode(), f"{id}:{_COLUMNS[side]}")})

    def json_values(self, signature: Signature, side: Side, stored: str, id: UUID) -> dict[str, Any]:
        """Stored values as JSON data, in the signature's order; without any key, ``<secret>`` for sealed ones.

        Raises EncryptionError when the needed key is not set.
        """
        values: dict[str, Any] = json.loads(stored)
        if SEALED in values and self.keyring is not None:
            values = self._opened(values, f"{id}:{_COLUMNS[side]}")
            values.pop(_SALT, None)
        elif values.pop(SEALED, None) is not None:
            values = {f.name: values.get(f.name, PLACEHOLDER) for f in signature.fields(side)}
        return {f.name: values.pop(f.name) for f in signature.fields(side) if f.name in values} | values

    def values(self, signature: Signature, side: Side, stored: str, id: UUID) -> dict[str, Any]:
        """Stored values as Python values."""
        if not is_sealed(stored):
            return signature.decode(side, stored)
        found = self.json_values(signature, side, stored, id)
        closed = {n: found.pop(n) for n in list(found) if self.keyring is None and found[n] == PLACEHOLDER}
        values = {**signature.decode(side, _text(found)), **closed}
        return {f.name: values[f.name] for f in signature.fields(side) if f.name in values}

    def shown(self, signature: Signature, side: Side, stored: str, id: UUID) -> dict[str, Any]:
        """Stored values as a command may show them: without secret fields and values that no key here opens."""
        try:
            found = self.json_values(signature, side, stored, id)
        except EncryptionError:
            found = Sealing().json_values(signature, side, stored, id)
        return {name: PLACEHOLDER if name in signature.secret_fields else value for name, value in found.items()}

    def shown_whole(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """An error or results of actions without their sealed part."""
        return {name: value for name, value in stored.items() if name != SEALED}

    def open_whole(self, stored: Mapping[str, Any], context: str) -> dict[str, Any]:
        """An error or results of actions with their sealed part, if there is a key."""
        if SEALED not in stored:
            return dict(stored)
        return (
            {n: v for n, v in stored.items() if n != SEALED} if self.keyring is None else self._opened(stored, context)
        )

    def seal_whole(self, document: Mapping[str, Any], context: str) -> str:
        """The text to store for a document that is sealed as a whole; :meth:`open_whole` opens it."""
        return _text({SEALED: self._ring.seal(_text(document).encode(), context)})

    def digest(self, data: bytes) -> bytes:
        """A hash of values that are sealed: without the key they cannot be found by trying."""
        return self._ring.digest(data)

    def attempt(self, program: Program, inputs: str, id: UUID) -> SealedAttempt | None:
        """The sealing of an attempt with these stored inputs; None when nothing is sealed.

        Raises EncryptionError for a key that this process does not have; another worker may have it.
        """
        if not self.covers(program.signature) and not (is_sealed(inputs) and SEALED in json.loads(inputs)):
            return None
        if self.keyring is None:
            raise EncryptionError(
                f"this worker has no key for {program.name!r}: set DSPEX_ENCRYPTION_KEY",
                code="encryption_key_missing", retryable=True,
            )  # fmt: skip
        try:
            opened = self._opened(json.loads(inputs), f"{id}:inputs")
        except EncryptionError as error:
            error.retryable = error.code == "encryption_key_unknown"
            raise
        return SealedAttempt(self, program.signature, id, bytes.fromhex(opened.get(_SALT, "")))

    def seal_call(self, text: str, id: UUID, place: str) -> str:
        """The text to store for an answer of an execution, whose request was sealed; ``place`` is the call's."""
        return _text({SEALED: self._ring.seal(text.encode(), f"{id}:call:{place}")})

    def seal_request(self, text: str, id: UUID, place: str) -> str:
        """As :meth:`seal_call`, for a request that is kept."""
        return _text({SEALED: self._ring.seal(text.encode(), f"{id}:request:{place}")})

    def _opened(self, stored: Mapping[str, Any], context: str) -> dict[str, Any]:
        plain = {name: value for name, value in stored.items() if name != SEALED}
        return plain | json.loads(self._ring.open(stored[SEALED], context)) if SEALED in stored else plain

    @property
    def _ring(self) -> Keyring:
        if self.keyring is None:
            raise EncryptionError("DSPEX_ENCRYPTION_KEY is not set", code="encryption_key_missing")
        return self.keyring


@dataclass(frozen=True, slots=True)
class SealedAttempt:
    """Seals the values that one attempt stores; ``salt`` is the execution's, so that request hashes reveal nothing."""

    sealing: Sealing
    signature: Signature
    id: UUID
    salt: bytes

    @property
    def hidden_outputs(self) -> frozenset[str]:
        return self.sealing.hidden(self.signature, "outputs")

    def digest(self, request_hash: bytes) -> bytes:
        """The hash to store and publish: without the salt, requests cannot be guessed by their hash."""
        return hmac.digest(self.salt, request_hash, "sha256")

    def result(self, encoded: str) -> str:
        return self.sealing.seal_values(self.signature, "outputs", encoded.encode(), self.id)

    def error(self, text: str) -> str:
        """A stored error with its message sealed; its code can be read and counted."""
        error = json.loads(text)
        apart = {"message": error["message"], "details": error["details"]}
        token = self.sealing._ring.seal(_text(apart).encode(), f"{self.id}:error")
        return _text({**error, "message": _SEALED_TEXT, "details": {}, SEALED: token})

    def actions(self, text: str) -> str:
        return self._whole(text, f"{self.id}:action_results")

    def response(self, text: str, call: str) -> str:
        return self._whole(text, f"{self.id}:call:{call}")

    def request(self, text: str, call: str) -> str:
        return self._whole(text, f"{self.id}:request:{call}")

    def open_response(self, text: str, call: str) -> dict[str, Any]:
        return self.sealing.open_whole(json.loads(text), f"{self.id}:call:{call}")

    def _whole(self, text: str, context: str) -> str:
        return _text({SEALED: self.sealing._ring.seal(text.encode(), context)})


def is_sealed(stored: str) -> bool:
    """Whether a stored JSON text may have a sealed part; a user's text may look like one."""
    return f'"{SEALED}"' in stored


def reseal(keyring: Keyring, stored: str, context: str) -> str:
    """The stored text with its token sealed by the current key. Raises EncryptionError."""
    document = json.loads(stored)
    if SEALED in document:
        document[SEALED] = keyring.seal(keyring.open(document[SEALED], context), context)
    return _text(document)


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))
