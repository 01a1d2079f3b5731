"""What fuzzing found: each text compiles, or fails with a place inside it."""

from __future__ import annotations

from pathlib import Path

from tests.performance.signature_seeds import ARCHIVE, check, pack, seeds


def test_every_seed_compiles_or_fails_at_a_place_inside_it() -> None:
    found = seeds()
    assert len(found) >= 511
    for text in found.values():
        check(text)


def test_packing_again_gives_the_same_bytes_and_new_texts_are_added(tmp_path: Path) -> None:
    copy = tmp_path / "seeds.zip"
    assert pack(reversed(seeds().values()), copy) == len(seeds())
    assert copy.read_bytes() == ARCHIVE.read_bytes()
    assert pack([b"a text that no seed has"], copy) == 1
    assert seeds(copy).keys() > seeds().keys()
