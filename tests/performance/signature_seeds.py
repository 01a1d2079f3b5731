"""The texts that fuzzing of the signature language starts from, in one archive, and the check of each text.

    python -m tests.performance.signature_seeds add build/fuzz/finds

adds the files of a directory to ``signature_seeds.zip``; with ``--archive tests/performance/answer_seeds.zip``, to the
seeds of the reader of answers. Equal seeds give equal bytes on every machine: each is named by its SHA-256, they are
sorted, no time is stored, and nothing is compressed.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from dspex.errors import SignatureSyntaxError
from dspex.signatures.compile import compile_uncached

__all__ = ["ARCHIVE", "check", "pack", "seeds"]

ARCHIVE = Path(__file__).with_suffix(".zip")


def seeds(archive: Path = ARCHIVE) -> dict[str, bytes]:
    """Every seed by its name."""
    if not archive.exists():
        return {}
    with ZipFile(archive) as file:
        return {name: file.read(name) for name in file.namelist()}


def pack(texts: Iterable[bytes], archive: Path = ARCHIVE) -> int:
    """Write the archive anew with these texts added. Returns how many of them are new."""
    known = seeds(archive)
    added = {hashlib.sha256(text).hexdigest()[:16]: text for text in texts}
    with ZipFile(archive, "w") as file:
        for name, text in sorted({**known, **added}.items()):
            file.writestr(ZipInfo(name), text)
    return len(added.keys() - known.keys())


def check(data: bytes) -> None:
    """Compile the text, and its definition again. Any exception that escapes is a bug."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        compiled = compile_uncached(text)
    except SignatureSyntaxError as error:
        _check_place(text, error)
        return
    again = compile_uncached(compiled.definition)
    assert again == compiled
    assert again.definition == compiled.definition


def _check_place(text: str, error: SignatureSyntaxError) -> None:
    """The error's place is inside the text."""
    lines = text.split("\n")
    assert 1 <= error.line <= len(lines)
    assert 1 <= error.column <= len(lines[error.line - 1]) + 1
    assert str(error)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["add"])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--archive", type=Path, default=ARCHIVE)
    options = parser.parse_args()
    found = [path.read_bytes() for path in options.directory.rglob("*") if path.is_file()]
    print(f"{pack(found, options.archive)} of {len(found)} texts are new in {options.archive}")


if __name__ == "__main__":
    main()
