"""The files of one home (``DSPEX_HOME``), its lock, and the record of the stack that runs there.

::

    home/               0700
      lock              held (flock) by the supervising process; the kernel releases it when that process dies
      stack.json        addresses, while a stack runs
      secrets.json      generated passwords of the two servers
      postgres/ redis/  their data
      postgres.lock …   inherited by a server: held until the last of its processes is gone
      model.json        the local model's address, while it is served
      model.wanted      touched to request the local model
      schema.json       digests of the migrations that made the schema
      log/NAME.log      the output of each process
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dspex.errors import ConfigurationError, DspexError

__all__ = ["FileLock", "Home", "Stack", "StackRunning", "read_stack", "write_private", "write_stack"]

# How long a start waits for a lock that a reader may hold for a moment.
_READER_SECONDS = 0.5


class StackRunning(DspexError):
    """Another process already runs the embedded stack of this home."""

    code = "stack_running"

    @property
    def pid(self) -> int:
        return int(self.details.get("pid", 0))


@dataclass(frozen=True, slots=True)
class Stack:
    """A running embedded stack: where its servers listen, and which process supervises it (``pid``).

    ``serves_model``: it starts the local model on request.
    """

    database_url: str
    broker_url: str
    pid: int
    started_at: str
    flower_url: str | None = None
    serves_model: bool = False
    console_url: str | None = None

    def __repr__(self) -> str:  # the URLs hold passwords
        return f"Stack(pid={self.pid}, started_at={self.started_at!r}, flower_url={self.flower_url!r})"


class FileLock:
    """An exclusive ``flock`` on a file, for this process or, with :attr:`fd`, for a child that inherits it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    @property
    def fd(self) -> int:
        if self._fd is None:
            raise RuntimeError(f"{self.path} is not locked")
        return self._fd

    @property
    def held(self) -> bool:
        return self._fd is not None

    def acquire(self, timeout: float = 0.0) -> bool:
        """Take the lock; False if another process still holds it after ``timeout`` seconds."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _flock_within(fd, timeout):
            os.close(fd)
            return False
        self._fd = fd
        return True

    def note(self, text: str) -> None:
        """Write a text into the file, for a process that finds it locked."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, text.encode(), 0)

    def close(self) -> None:
        """Close this process' copy: a child that inherited the lock still holds it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _flock_within(fd: int, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        else:
            return True


class Home:
    """The directory of one embedded stack, made private to its owner."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).expanduser().absolute()
        self.stack_file = self.path / "stack.json"
        self.secrets_file = self.path / "secrets.json"
        self.model_file = self.path / "model.json"
        self.model_wanted = self.path / "model.wanted"
        self.schema_file = self.path / "schema.json"
        self.log_dir = self.path / "log"
        self._lock = FileLock(self.path / "lock")
        self._passwords: dict[str, str] = {}

    def acquire(self) -> None:
        """Create the directory and take its lock, or raise :class:`StackRunning`."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.chmod(0o700)
            self.log_dir.mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"The home {str(self.path)!r} cannot be used: {error.strerror}. "
                "Set DSPEX_HOME to a directory that you own."
            ) from error
        if not self._lock.acquire(_READER_SECONDS):
            raise self._running()
        self._lock.note(str(os.getpid()))
        for stale in (self.stack_file, self.model_file, self.model_wanted):
            stale.unlink(missing_ok=True)
        try:
            self._passwords = self._open_secrets()
        except BaseException:
            self.release()
            raise

    def password(self, whose: str) -> str:
        """A generated password: made at the first start, and stored beside the data that it opens."""
        return self._passwords[whose]

    def release(self) -> None:
        """Remove the record of the running stack and release the lock. Does nothing without the lock."""
        if not self._lock.held:
            return
        for file in (self.stack_file, self.model_file, self.model_wanted):
            file.unlink(missing_ok=True)
        self._lock.note("")
        self._lock.close()

    def is_locked(self) -> bool:
        """Whether a live process supervises this home."""
        try:
            fd = os.open(self._lock.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(fd)

    def _open_secrets(self) -> dict[str, str]:
        if self.secrets_file.exists():
            return {name: str(value) for name, value in json.loads(self.secrets_file.read_text()).items()}
        if (data := self.path / "postgres").exists():
            raise ConfigurationError(
                f"{str(self.secrets_file)!r} is missing: it holds the passwords of the data in {str(data)!r}. "
                "Put it back, or remove both to begin afresh."
            )
        made = {name: secrets.token_urlsafe(24) for name in ("superuser", "postgres", "redis")}
        write_private(self.secrets_file, made)
        return made

    def _running(self) -> StackRunning:
        stack = _load(self.stack_file)
        pid = _lock_pid(self._lock.path) or (stack.pid if stack else 0)
        where = "it is still starting" if stack is None else f"Flower: {stack.flower_url or 'not started'}"
        return StackRunning(
            f"The stack in {str(self.path)!r} is already run by process {pid} ({where}). Use it as it is (a client "
            "with the same DSPEX_HOME finds it), stop that process first, or set another DSPEX_HOME.",
            pid=pid,
            home=str(self.path),
            database=_without_password(stack.database_url) if stack else None,
            broker=_without_password(stack.broker_url) if stack else None,
            flower=stack.flower_url if stack else None,
        )


def read_stack(home: Path | str) -> Stack | None:
    """The stack that runs in ``home`` now, or None, also when a process that died has left a record."""
    place = Home(home)
    return _load(place.stack_file) if place.is_locked() else None


def write_private(path: Path, data: dict[str, Any]) -> None:
    """Write JSON atomically into a file that only its owner may read."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
    with os.fdopen(fd, "w") as file:
        json.dump(data, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)


def write_stack(home: Home, stack: Stack) -> None:
    """Record the running stack in ``stack.json``."""
    write_private(home.stack_file, asdict(stack))


def _load(path: Path) -> Stack | None:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return Stack(**{f.name: data[f.name] for f in fields(Stack) if f.name in data})


def _lock_pid(path: Path) -> int:
    text = path.read_text().strip()
    return int(text) if text.isdecimal() else 0


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
