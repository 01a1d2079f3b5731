"""The typed contract: signatures compiled in the producer, without input, output or an LM library."""

from dspex.signatures import builtin as _builtin  # noqa: F401 - registers the built-in types
from dspex.signatures.classes import InputField, OutputField, SignatureModel
from dspex.signatures.compile import compile_signature as signature
from dspex.signatures.compiled import Example, Signature
from dspex.signatures.custom import register_type
from dspex.signatures.diff import Change, Diff
from dspex.signatures.fields import NO_DEFAULT, Field, Type
from dspex.signatures.providers import ProviderFit
from dspex.signatures.repair import Checked, Repair

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
