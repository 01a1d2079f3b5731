"""Signatures: the typed contract of a program, compiled in the producer without I/O and without an LM library."""

from dspex.signatures.compile import compile_signature as signature
from dspex.signatures.compiled import Example, Signature
from dspex.signatures.diff import Change, Diff
from dspex.signatures.fields import NO_DEFAULT, Field, Type
from dspex.signatures.parse.class_signatures import InputField, OutputField, SignatureModel
from dspex.signatures.schemas.provider_fit import ProviderFit
from dspex.signatures.types import builtin_types as _builtin_types  # noqa: F401 - registers the built-in types
from dspex.signatures.types.custom_types import register_type
from dspex.signatures.values.value_repair import CheckedOutputs, Repair

__all__ = [
    "NO_DEFAULT",
    "Change",
    "CheckedOutputs",
    "Diff",
    "Example",
    "Field",
    "InputField",
    "OutputField",
    "ProviderFit",
    "Repair",
    "Signature",
    "SignatureModel",
    "Type",
    "register_type",
    "signature",
]
