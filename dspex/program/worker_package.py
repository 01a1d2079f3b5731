"""Finds DSPex's own package ``workers``, and runs a module of it or with it.

``workers`` is a general name: a project may have a package of that name, in the working directory or installed. So the
processes of DSPex never look their own up on ``sys.path``. They are started through this module::

    python -m dspex.program.worker_package -m workers --hostname …

A wheel has the package inside ``dspex``, where nothing can take its place; a checkout has it beside ``dspex``.
"""

from __future__ import annotations

import runpy
import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

__all__ = ["LAUNCH", "NAME", "hidden_package", "hidden_warning", "load_workers", "main"]

NAME = "workers"
#: The arguments of Python before ``-m MODULE …`` for a process of DSPex.
LAUNCH = ("-m", "dspex.program.worker_package")

_DSPEX = Path(__file__).resolve().parents[1]
_IN_WHEEL, _IN_CHECKOUT = _DSPEX / NAME, _DSPEX.parent / NAME


def load_workers() -> None:
    """Make DSPex's package the module ``workers`` of this process."""
    place = _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_CHECKOUT
    if list(getattr(sys.modules.get(NAME), "__path__", ())) == [str(place)]:
        return
    spec = spec_from_file_location(NAME, place / "__init__.py", submodule_search_locations=[str(place)])
    if spec is None or spec.loader is None or not place.is_dir():
        raise ImportError(f"the package {NAME!r} of DSPex is not at {place}: install dspex again", name=NAME)
    sys.modules[NAME] = module = module_from_spec(spec)
    spec.loader.exec_module(module)


def hidden_package() -> str | None:
    """The place of a user's own package or module ``workers``, in the working directory or on ``sys.path``.

    Nothing is imported.
    """
    own = {str(_IN_CHECKOUT / "__init__.py"), str(_DSPEX.parent / f"{NAME}.py")}
    for directory in (str(Path.cwd()), *sys.path):
        spec = PathFinder.find_spec(NAME, [directory])
        found = spec and (spec.origin or _folder_of_modules(spec))
        if found and str(Path(found).resolve()) not in own:
            return found
    return None


def _folder_of_modules(spec: ModuleSpec) -> str | None:
    """The folder of a package without ``__init__.py``; None if there are no modules in it."""
    folders = spec.submodule_search_locations or ()
    return next((folder for folder in folders if any(Path(folder).glob("*.py"))), None)


def hidden_warning() -> str | None:
    """A sentence about a user's own package ``workers``, if there is one."""
    found = hidden_package()
    if found is None:
        return None
    return (
        f"{found} is hidden in DSPex's processes by their own package {NAME!r}: programs cannot load code from it; "
        "rename it if they should"
    )


def main() -> None:
    """Run a module as ``python -m`` does, with DSPex's package ``workers``."""
    if len(sys.argv) < 3 or sys.argv[1] != "-m":
        sys.exit(f"usage: python {' '.join(LAUNCH)} -m MODULE [ARGUMENT]…")
    load_workers()
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
