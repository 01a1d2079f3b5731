"""The typed contract: signatures compiled in the producer, without input, output or an LM library."""

from dspex.signatures.compile import compile_signature as signature
from dspex.signatures.compiled import Example, Signature
from dspex.signatures.diff import Change, Diff
from dspex.signatures.fields import NO_DEFAULT, Field, Type
from dspex.signatures.parse.class_signatures import InputField, OutputField, SignatureModel
from dspex.signatures.schemas.provider_fit import ProviderFit
from dspex.signatures.types import builtin_types as _builtin_types  # noqa: F401 - registers the built-in types
from dspex.signatures.types.custom_types import register_type
from dspex.signatures.values.value_repair import Checked, Repair

__all__ = [
    "NO_DEFAULT",
    "Change",
    "Checked",
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
