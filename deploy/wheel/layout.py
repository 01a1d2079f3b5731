"""Where the files of a checkout are in a wheel: see docs/decisions/0002-what-the-wheel-holds.md."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: Inside dspex/, no other package can take their names.
FILES = {
    "workers": "dspex/workers",
    "celeryconfig.py": "dspex/celeryconfig.py",
    "deploy/wheel/workers.py": "workers.py",
}


class WheelLayout(BuildHookInterface):
    """Adds the files to a wheel; an editable installation finds them in the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"].update(FILES)
