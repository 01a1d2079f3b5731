"""Size limits of submits and deploys, checked before anything is stored: bytes, depth, number of values and rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dspex.errors import FieldError
from dspex.program.nesting import depth_fault, inside, is_deeper
from dspex.settings import Settings

__all__ = ["DEPTH_SETTING", "Bounds"]

DEPTH_SETTING = "DSPEX_MAX_INPUT_DEPTH"


@dataclass(frozen=True, slots=True)
class Bounds:
    """The settings of the same names: DSPEX_MAX_INPUT_BYTES and so on."""

    max_input_bytes: int = 10 * 1024 * 1024
    max_input_depth: int = 64
    max_input_items: int = 200_000
    max_metadata_bytes: int = 64 * 1024
    max_program_bytes: int = 8 * 1024 * 1024
    max_batch_rows: int = 100_000_000

    @classmethod
    def of(cls, settings: Settings) -> Bounds:
        return cls(**{name: getattr(settings, name) for name in cls.__slots__})

    def input_faults(self, values: Mapping[str, Any], encoded: bytes) -> Iterator[FieldError]:
        """The limits that these inputs exceed. Values are walked only if the JSON is large or deep enough to matter."""
        if len(encoded) > self.max_input_bytes:
            yield _too_large("inputs", len(encoded), "max_input_bytes", self.max_input_bytes)
        brackets = encoded.count(b"[") + encoded.count(b"{")
        if brackets > self.max_input_depth and is_deeper(values, self.max_input_depth):
            yield depth_fault("inputs", self.max_input_depth, DEPTH_SETTING)
        if len(encoded) > self.max_input_items and (found := _items(values)) > self.max_input_items:
            yield FieldError(
                "inputs", f"at most {self.max_input_items} values (DSPEX_MAX_INPUT_ITEMS)", str(found), "max_items"
            )

    def metadata_faults(self, values: Mapping[str, Any], encoded: bytes) -> Iterator[FieldError]:
        if len(encoded) > self.max_metadata_bytes:
            yield _too_large("metadata", len(encoded), "max_metadata_bytes", self.max_metadata_bytes)
        if is_deeper(values, self.max_input_depth):
            yield depth_fault("metadata", self.max_input_depth, DEPTH_SETTING)

    def program_faults(self, encoded: bytes) -> Iterator[FieldError]:
        if len(encoded) > self.max_program_bytes:
            yield _too_large("program", len(encoded), "max_program_bytes", self.max_program_bytes)

    def batch_faults(self, rows: int) -> Iterator[FieldError]:
        if rows > self.max_batch_rows:
            expected = f"at most {self.max_batch_rows} rows in a batch (DSPEX_MAX_BATCH_ROWS)"
            yield FieldError("rows", expected, "more", "max_size")


def _items(values: object) -> int:
    count, waiting = 0, [values]
    while waiting:
        value = waiting.pop()
        waiting.extend(inside(value))
        count += 2 * len(value) if isinstance(value, Mapping) else len(value) if isinstance(value, list | tuple) else 0
    return count


def _too_large(path: str, size: int, setting: str, most: int) -> FieldError:
    return FieldError(path, f"at most {most} bytes as JSON (DSPEX_{setting.upper()})", f"{size} bytes", "max_bytes")
