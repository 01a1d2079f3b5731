"""Write the reference pages; with ``--check``, list the stale pages, and fail if there are any."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from docs.generate import api, audit_events, cli, doctor, errors, metrics, settings

REFERENCE = Path(__file__).parents[1] / "reference"
#: Each page, and what makes its text.
PAGES: dict[str, Callable[[], str]] = {
    "api.md": api.page,
    "audit-events.md": audit_events.page,
    "cli.md": cli.page,
    "doctor.md": doctor.page,
    "errors.md": errors.page,
    "metrics.md": metrics.page,
    "settings.md": settings.page,
}


def main() -> int:
    stale = [name for name, page in PAGES.items() if _text(REFERENCE / name) != page()]
    if "--check" in sys.argv[1:]:
        for name in stale:
            print(f"docs/reference/{name} is stale: run `make docs-reference` and commit it")
        return 1 if stale else 0
    for name in stale:
        (REFERENCE / name).write_text(PAGES[name]())
        print(f"docs/reference/{name} is written")
    return 0


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
