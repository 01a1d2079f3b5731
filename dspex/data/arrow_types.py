"""The Arrow type of each type of the signature language, and its values of JSON in the form that pyarrow takes.

Lists are lists, objects are structs, maps of one kind of value are maps. What has no single shape (``:map``, ``:any``,
``:union``, ``:tagged``) is text with JSON. Moments stay text, because one with a time zone and one without are
different types in Arrow.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable
from datetime import date
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from dspex.signatures.fields import Type
from dspex.signatures.types.type_registry import expand

if TYPE_CHECKING:
    import pyarrow

__all__ = ["arrow_type", "arrow_value", "spare_memory"]

Shape = Callable[[Any], Any]
_JSON = ("any", "map", "union", "tagged")
#: The functions of pyarrow that make the types of single values; every other is text.
_SCALARS = {"integer": "int64", "float": "float64", "boolean": "bool_", "date": "date32", "binary": "binary"}


class _NotInstalled:
    """Finds that pandas and NumPy are not installed."""

    def find_spec(self, name: str, *_: object) -> None:
        if name in ("pandas", "numpy"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def spare_memory() -> None:
    """Make pyarrow need less memory, in a process of the command line that needs neither pandas nor NumPy.

    pyarrow imports NumPy, which takes 12 MB, and, to ask whether a list is one of its objects, pandas, which takes
    60 MB; it does without either. And its own allocator keeps more of what was freed than the one of the system.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # read when pyarrow is imported
    if find_spec("pyarrow") is None or "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, finder := _NotInstalled())
    try:
        import pyarrow

        pyarrow.array([])  # it asks once
    finally:
        sys.meta_path.remove(finder)


def arrow_type(kind: Type) -> pyarrow.DataType:
    """The Arrow type for the values of a type."""
    import pyarrow

    primitive = expand(kind)
    if primitive.name in _SCALARS:
        made: pyarrow.DataType = getattr(pyarrow, _SCALARS[primitive.name])()
        return made
    match primitive.name:
        case "optional":
            return arrow_type(primitive.args[0])
        case "list":
            return pyarrow.list_(arrow_type(primitive.args[0]))
        case "dict":
            return pyarrow.map_(pyarrow.string(), arrow_type(primitive.args[1]))
        case "object" if primitive.labels:
            members = zip(primitive.labels, primitive.args, strict=True)
            return pyarrow.struct([(label, arrow_type(arg)) for label, arg in members])
    return pyarrow.string()


def arrow_value(kind: Type) -> Shape:
    """The function that gives a value of JSON the form that pyarrow takes for :func:`arrow_type`."""
    shape = _shape(kind)
    return lambda value: None if value is None else shape(value)


def _shape(kind: Type) -> Shape:
    primitive = expand(kind)
    if primitive.name in _JSON or (primitive.name == "object" and not primitive.labels):
        return _as_json
    make = _SHAPES.get(primitive.name)
    return _same if make is None else make(primitive)


def _same(value: Any) -> Any:
    return value


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _optional(kind: Type) -> Shape:
    return arrow_value(kind.args[0])


def _list(kind: Type) -> Shape:
    shape = arrow_value(kind.args[0])
    return lambda value: [shape(item) for item in value]


def _dict(kind: Type) -> Shape:
    shape = arrow_value(kind.args[1])
    return lambda value: [(key, shape(item)) for key, item in value.items()]


def _object(kind: Type) -> Shape:
    shapes = dict(zip(kind.labels, map(arrow_value, kind.args), strict=True))
    return lambda value: {key: shape(value.get(key)) for key, shape in shapes.items()}


_SHAPES: dict[str, Callable[[Type], Shape]] = {
    "optional": _optional,
    "list": _list,
    "dict": _dict,
    "object": _object,
    "date": lambda _kind: date.fromisoformat,
    "binary": lambda _kind: base64.b64decode,
}
