"""A child process: started without inheriting trouble, stopped in order, and never left behind."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dspex.embedded.child_launcher import REFUSED
from dspex.embedded.home import FileLock
from dspex.errors import ConfigurationError

__all__ = ["REFUSED", "Account", "ChildProcess", "launch_command", "server_environment"]

_LAUNCHER = Path(__file__).with_name("child_launcher.py")
_LOG_BYTES = 5 * 1024 * 1024
# The kernel sends the death signal when the *thread* that started the child ends, so one thread that lives as long
# as this process starts them all.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dspex-spawner")


@dataclass(frozen=True, slots=True)
class Account:
    """The operating system's account that a server runs as, when the supervisor is root."""

    uid: int
    gid: int

    @staticmethod
    def unprivileged() -> Account | None:
        """None unless this process is root; then ``postgres`` where that account exists, else ``nobody``."""
        if os.geteuid() != 0:
            return None
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return Account(entry.pw_uid, entry.pw_gid)
        raise ConfigurationError(
            "Postgres refuses to run as root, and neither the account 'postgres' nor 'nobody' exists. "
            "Run as an ordinary user, or create one of them."
        )


def launch_command(
    argv: Sequence[str], *, death_signal: signal.Signals = signal.SIGKILL, account: Account | None = None
) -> list[str]:
    """The command that runs ``argv`` through :mod:`dspex.embedded.child_launcher`."""
    options = ["--parent", str(os.getpid()), "--death-signal", str(int(death_signal))]
    if account is not None:
        options += ["--uid", str(account.uid), "--gid", str(account.gid)]
        options += ["--reach"] if sys.platform == "linux" else []
    return [sys.executable, "-I", "-S", str(_LAUNCHER), *options, *argv]


def server_environment() -> dict[str, str]:
    """The environment of a server: none of the supervisor's settings and secrets."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


@dataclass
class ChildProcess:
    """One process: what to run and how to end it.

    ``stop_signals`` are sent one after the other, each with its seconds to end in; SIGKILL to the whole session
    follows. The kernel sends ``death_signal`` when this process, its supervisor, dies.
    """

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str]
    cwd: Path | None = None
    account: Account | None = None
    death_signal: signal.Signals = signal.SIGKILL
    stop_signals: Sequence[tuple[signal.Signals, float]] = ((signal.SIGTERM, 10.0),)
    _popen: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _log_from: int = field(default=0, init=False, repr=False)

    @property
    def pid(self) -> int:
        return self._popen.pid if self._popen else 0

    @property
    def exit_code(self) -> int | None:
        """None while it runs (and before it was started)."""
        return self._popen.poll() if self._popen else None

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def start(self, *, inherit: FileLock | None = None) -> None:
        """Start it; it and all of its own children hold the lock ``inherit`` while they live."""
        self._popen = _spawner.submit(self._spawn, inherit).result()

    def stop(self) -> None:
        """End it as it likes to be ended, then by force, with all of its session. Does nothing if it never ran."""
        if self._popen is None:
            return
        for number, grace in self.stop_signals:
            if self.wait(0):
                break
            self._popen.send_signal(number)
            self.wait(grace)
        self.kill()
        self._popen.wait()
        self._close_pipe()
        self._popen = None

    def kill(self) -> None:
        """End it and all of its session at once; :meth:`stop` is still to be called."""
        if popen := self._popen:
            with suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS, for a group of zombies
                os.killpg(popen.pid, signal.SIGKILL)

    def wait(self, timeout: float) -> bool:
        """Whether it ended within ``timeout`` seconds."""
        if self._popen is None:
            return True
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def evidence(self) -> str:
        """How it ended, and what it said last."""
        code = "is still running" if self.exit_code is None else f"ended with exit code {self.exit_code}"
        return f"{self.name} {code}. Its log is {str(self.log)!r}:\n{self.printed()}"

    def printed(self, lines: int = 15) -> str:
        """The last lines that it printed since it was started."""
        with self.log.open("rb") as file:
            file.seek(self._log_from)
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])

    def _spawn(self, lock: FileLock | None) -> subprocess.Popen[bytes]:
        self._rotate_log()
        with self.log.open("ab") as log:
            self._log_from = log.tell()
            return subprocess.Popen(
                launch_command(self.argv, death_signal=self.death_signal, account=self.account),
                stdin=subprocess.DEVNULL if sys.platform == "linux" else subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self.env),
                cwd=self.cwd,
                pass_fds=() if lock is None else (lock.fd,),
                start_new_session=True,  # the terminal's Ctrl-C is for the supervisor alone
            )

    def _rotate_log(self) -> None:
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))

    def _close_pipe(self) -> None:
        if self._popen and self._popen.stdin:
            self._popen.stdin.close()
