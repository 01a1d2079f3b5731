"""Tokens, what is sealed of values, and what of it is shown."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from dspex.errors import ConfigurationError, EncryptionError
from dspex.sealing.keyring import Keyring
from dspex.sealing.values import PLACEHOLDER, SEALED, Sealing, reseal
from dspex.settings import Settings
from dspex.settings.security_settings import new_key, read_keys
from dspex.signatures import signature

OLD, NEW = read_keys(new_key()), read_keys(new_key())
SECRETIVE = signature(
    ":string question, :datetime(secret=true) born, :map(secret=true) more, :optional(:string) note "
    "-> :string(secret=true) token, :integer count"
)
ID = uuid7()


@given(st.binary(max_size=300), st.text(max_size=30))
def test_what_was_sealed_opens_and_nowhere_else(plain: bytes, context: str) -> None:
    ring = Keyring(OLD)
    token = ring.seal(plain, context)
    assert ring.open(token, context) == plain
    with pytest.raises(EncryptionError) as refused:
        ring.open(token, context + "x")
    assert refused.value.code == "sealed_data_damaged"


def test_two_tokens_of_one_text_tell_nothing() -> None:
    ring = Keyring(OLD)
    assert ring.seal(b"1234", "a") != ring.seal(b"1234", "a")


@pytest.mark.parametrize("token", ["", "1", "1..", "2.x.y", "not a token", "1.{key}.AAAA", "1.{key}.***"])
def test_a_token_that_is_none(token: str) -> None:
    ring = Keyring(OLD)
    with pytest.raises(EncryptionError):
        ring.open(token.format(key=ring.primary), "a")


def test_every_changed_byte_is_noticed() -> None:
    ring = Keyring(OLD)
    head, _, data = ring.seal(b"1234", "a").rpartition(".")
    raw = base64.urlsafe_b64decode(data)
    for position in range(len(raw)):
        changed = raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]
        with pytest.raises(EncryptionError):
            ring.open(f"{head}.{base64.urlsafe_b64encode(changed).decode()}", "a")


def test_the_first_key_seals_and_all_open() -> None:
    before, after = Keyring(OLD), Keyring([*NEW, *OLD])
    stored = f'{{"a": 1, "{SEALED}": "{before.seal(b"{}", "place")}"}}'
    again = reseal(after, stored, "place")
    assert f".{after.primary}." in again
    with pytest.raises(EncryptionError, match="not among") as unknown:
        reseal(before, again, "place")
    assert unknown.value.code == "encryption_key_unknown"


@pytest.mark.parametrize(
    "text",
    ["", "short", "a" * 44, ",".join([new_key(), "second"]), new_key()[:-4]],
    ids=["empty", "short", "no base64 of 32 bytes", "the second of two", "cut"],
)
def test_a_wrong_key_is_refused_without_being_repeated(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="32 bytes in base64"):
        read_keys(text)
    if text:
        monkeypatch.setenv("DSPEX_ENCRYPTION_KEY", text)
        with pytest.raises(ConfigurationError, match="DSPEX_ENCRYPTION_KEY") as refused:
            Settings.load()
        assert text not in str(refused.value.as_dict())


def test_all_cannot_be_sealed_without_a_key() -> None:
    with pytest.raises(ConfigurationError, match="DSPEX_ENCRYPTION_KEY"):
        Settings.load(encrypt="all")


def test_values_of_every_type_come_back_in_their_order() -> None:
    sealing, outsider = Sealing(Keyring(OLD)), Sealing()
    values = SECRETIVE.validate_inputs(
        {"question": '"dspex:sealed"', "born": "2020-01-02T03:04:05Z", "more": {SEALED: "x", "a": [1, {"b": None}]}}
    )
    stored = sealing.seal_values(SECRETIVE, "inputs", SECRETIVE.encode("inputs", values), ID)
    assert sealing.values(SECRETIVE, "inputs", stored, ID) == values
    assert list(sealing.values(SECRETIVE, "inputs", stored, ID)) == list(values)
    assert "2020" not in stored
    hidden = {"question": '"dspex:sealed"', "born": PLACEHOLDER, "more": PLACEHOLDER, "note": None}
    assert outsider.values(SECRETIVE, "inputs", stored, ID) == hidden
    for showing in (sealing, outsider, Sealing(Keyring(NEW))):
        assert showing.shown(SECRETIVE, "inputs", stored, ID) == hidden


def test_a_plain_value_that_looks_sealed_is_left_alone() -> None:
    plain = signature(":map thing -> :string answer")
    stored = plain.encode("inputs", {"thing": {SEALED: "1.deadbeef.AAAA"}}).decode()
    for sealing in (Sealing(), Sealing(Keyring(OLD))):
        assert sealing.values(plain, "inputs", stored, ID) == {"thing": {SEALED: "1.deadbeef.AAAA"}}


def test_hashes_of_requests_cannot_be_tried_out() -> None:
    from dspex.program.program import Program

    program = Program("p", SECRETIVE, adapter="scripted")
    sealing = Sealing(Keyring(OLD))
    values = SECRETIVE.validate_inputs({"question": "q", "born": "2020-01-02T03:04:05Z", "more": {}})
    attempts = []
    for id in (uuid7(), uuid7()):
        stored = sealing.seal_values(SECRETIVE, "inputs", SECRETIVE.encode("inputs", values), id)
        attempt = sealing.attempt(program, stored, id)
        assert attempt is not None
        attempts.append((attempt, stored))
    digests = {attempt.digest(b"\x00" * 32) for attempt, _ in attempts}
    assert len(digests) == 2  # each execution has a salt of its own
    attempt, stored = attempts[0]
    rotated = reseal(Keyring([*NEW, *OLD]), stored, f"{attempt.id}:inputs")
    again = Sealing(Keyring(NEW)).attempt(program, rotated, attempt.id)
    assert again is not None
    assert again.digest(b"\x00" * 32) in digests  # and keeps it when the key changes
