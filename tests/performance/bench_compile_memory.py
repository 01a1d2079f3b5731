"""Print the resident memory of one live ``comprehensive_types``, in bytes: ``bench_compile`` runs this alone."""

from __future__ import annotations

import gc
from pathlib import Path

from dspex.signatures.compile import compile_uncached
from tests.unit.signatures import seed

COUNT = 5_000


def resident() -> int:
    """Resident memory of this process, in bytes."""
    gc.collect()
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]) * 1024


def main() -> None:
    """Hold many signatures and divide."""
    given = seed.COMPREHENSIVE_CONSTRAINTS
    warm = [compile_uncached(seed.COMPREHENSIVE_TYPES, constraints=given) for _ in range(100)]
    before = resident()
    live = [
        compile_uncached(seed.COMPREHENSIVE_TYPES, name=f"signature_{number}", constraints=given)
        for number in range(COUNT)
    ]
    assert len(warm) == 100
    print((resident() - before) / len(live))


if __name__ == "__main__":
    main()
