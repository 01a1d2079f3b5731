"""``python -m tests.chaos.history [--seeds N] [--seconds S]``: a history for each seed, and a table of them."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dspex.program.adapters import look_again
from tests.chaos.history.account import Account
from tests.chaos.history.nemesis import FAULTS
from tests.chaos.history.play import LONG, play
from tests.processes import forked_workers

ROOT = Path(__file__).parents[3]


def main() -> None:
    parser = argparse.ArgumentParser(description="Record histories under faults, and check each of them.")
    parser.add_argument("--seeds", type=int, default=5, help="how many histories")
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("HISTORY_SECONDS") or LONG.seconds))
    parser.add_argument("--faults", nargs="+", choices=FAULTS, help="only these kinds, also those left out otherwise")
    parser.add_argument("--keep", type=Path, help="a directory in which to leave the histories and the logs")
    options = parser.parse_args()
    plugin = str(ROOT / "tests" / "chaos" / "plugin")
    sys.path.insert(0, plugin)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), plugin])
    look_again()
    plan = replace(LONG, seconds=options.seconds)
    if options.faults:
        plan = replace(plan, faults=options.faults)
    table = Table("seed", "operations", "submits", "faults", "lost attempts", "calls made/needed", "verdict")
    accounts = []
    for seed in _seeds(options.seeds):
        with forked_workers(), _directory(options.keep, seed) as directory:
            account = play(plan, seed, directory)
        print(account, flush=True)
        accounts.append(account)
        table.add_row(*_row(account))
    Console(width=140).print(table)
    sys.exit(any(account.violations for account in accounts))


def _seeds(count: int) -> Iterator[int]:
    """The one in CHAOS_SEED and those after it, or any."""
    first = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))
    yield from range(first, first + count)


@contextmanager
def _directory(keep: Path | None, seed: int) -> Iterator[Path]:
    """An empty directory, gone at the end unless it is to be kept."""
    if keep is not None:
        (keep / str(seed)).mkdir(parents=True)
        yield keep / str(seed)
    else:
        with tempfile.TemporaryDirectory(prefix="dspex-history-") as directory:
            yield Path(directory)


def _row(account: Account) -> tuple[str, ...]:
    faults = ", ".join(f"{kind} {count}" for kind, count in sorted(account.faults.items()))
    verdict = f"{len(account.violations)} violations" if account.violations else "holds"
    return (
        str(account.seed), str(account.operations), str(account.acknowledged), faults, str(account.lost_attempts),
        f"{account.calls_made}/{account.calls_needed}", verdict,
    )  # fmt: skip


if __name__ == "__main__":
    main()
