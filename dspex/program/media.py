"""Media in the inputs of a program: what its adapter sends, and what its models take."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from dspex.errors import FieldError
from dspex.program.models import LOCAL_MODEL, Model
from dspex.signatures.fields import Field, Type
from dspex.signatures.types.type_registry import expand

__all__ = ["MEDIA", "adapter_media_faults", "is_file", "model_media_faults", "untaken_media"]

#: The kinds of media in values: two types of signatures, and ``dspy.File``.
MEDIA = ("image", "audio", "file")
#: By provider, or for the bundled model: the media that its API does not take, and what to write instead.
_UNTAKEN: Mapping[str, Mapping[str, str]] = {
    "anthropic": {"audio": "give a transcript as text, or name a model of another provider"},
    LOCAL_MODEL: dict.fromkeys(MEDIA, "describe it in text, or name another model"),
}
_FILE_KEYS = frozenset({"file_data", "file_id", "filename"})


def is_file(kind: Type) -> bool:
    """Whether it is ``dspy.File``, an object of these keys."""
    primitive = expand(kind)
    return primitive.name == "object" and {key for key, _, _ in primitive.object_keys()} == _FILE_KEYS


def untaken_media(provider: str, kind: str) -> str | None:
    """Why a provider's API does not take this kind of media, and what to write instead; None if it may take it."""
    instead = _UNTAKEN.get(provider, {}).get(kind)
    named = "the bundled model" if provider == LOCAL_MODEL else f"{provider}'s API"
    return instead and f"{named} takes no {kind}: {instead}"


def adapter_media_faults(adapter: str, inputs: Iterable[Field]) -> Iterator[FieldError]:
    """The inputs whose media an adapter would send as text: those within other values, and files."""
    for field in inputs:
        if field.type.name not in MEDIA and _media_in(field.type):
            expected = "an image or audio as an input of its own, or adapter 'dspy'"
            why = f"adapter {adapter!r} sends files and media within other values as text"
            yield FieldError(f"signature.{field.name}", f"{expected}: {why}", str(field.type))


def model_media_faults(models: Collection[Model], inputs: Iterable[Field]) -> Iterator[FieldError]:
    """The inputs with media that one of the program's models does not take."""
    for field in inputs:
        for kind in _media_in(field.type):
            reasons = (untaken_media(_provider_of(model), kind) for model in models)
            if why := next(filter(None, reasons), None):
                yield FieldError(f"signature.{field.name}", f"no {kind}, since {why}", str(field.type))


def _provider_of(model: Model) -> str:
    """The provider whose API a model is asked by, or the bundled model."""
    return model.model.partition("/")[0]


def _media_in(kind: Type) -> list[str]:
    """The kinds of media that values of a type may hold."""
    if kind.name in MEDIA:
        return [kind.name]
    if is_file(kind):
        return ["file"]
    return sorted({name for inner in expand(kind).args for name in _media_in(inner)})
