"""The message envelope."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.errors import MessageRefused
from dspex.publish.envelope import MAX_IDS, pack, unpack

IDS = [UUID(int=n << 80 | 7) for n in range(1, 4)]


@given(st.lists(st.uuids(), min_size=1, max_size=8))
def test_what_is_packed_is_unpacked(ids: list[UUID]) -> None:
    assert unpack(pack(ids)) == ids


def changed(**values: Any) -> dict[str, Any]:
    return {**pack(IDS), **values}


@pytest.mark.parametrize(
    ("envelope", "reason"),
    [
        (None, "shape"),
        ([1, 2], "shape"),
        ({}, "version"),
        (changed(v=2), "version"),
        (changed(ids=[]), "size"),
        (changed(ids="abc"), "size"),
        (changed(ids=["0" * 32] * (MAX_IDS + 1)), "size"),
        (changed(ids=[1, 2, 3]), "checksum"),
        (changed(sum=0), "checksum"),
        (changed(ids=[*pack(IDS)["ids"][:-1], "0" * 32]), "checksum"),
    ],
)
def test_anything_else_is_refused_with_its_reason(envelope: Any, reason: str) -> None:
    with pytest.raises(MessageRefused) as refused:
        unpack(envelope)
    assert refused.value.details["reason"] == reason


@pytest.mark.parametrize("count", [0, MAX_IDS + 1])
def test_an_envelope_has_bounds(count: int) -> None:
    with pytest.raises(ValueError, match="carries 1 to"):
        pack([IDS[0]] * count)
