"""A child process: it starts with a clean environment, stops in order, and ends when its supervisor ends."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from dspex.embedded.child_launcher import REFUSED
from dspex.errors import ConfigurationError

__all__ = ["REFUSED", "Account", "ChildProcess", "launch_command", "server_environment"]

_LAUNCHER = Path(__file__).with_name("child_launcher.py")
_LOG_BYTES = 5 * 1024 * 1024
# The kernel sends the death signal when the *thread* that started the child ends. So children are started by the main
# thread, or by this one, which lives as long as this process.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dspex-spawner")


@dataclass(frozen=True, slots=True)
class Account:
    """The operating system account of a server whose supervisor is root."""

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
    """The environment of a server, without the supervisor's settings and secrets."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


@dataclass
class ChildProcess:
    """One process: its command and how it is stopped.

    ``stop_signals`` are sent one after the other, each with its time to end; SIGKILL to the whole session follows.
    The kernel sends ``death_signal`` when this process, its supervisor, dies. Without a ``log``, the child writes to
    the supervisor's standard output and error.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path | None = None
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
        """None while it runs and before it is started."""
        return self._popen.poll() if self._popen else None

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def start(self, *, inherit: int | None = None) -> None:
        """Start it; it and its own children inherit the file descriptor ``inherit``."""
        if threading.current_thread() is threading.main_thread():
            self._popen = self._spawn(inherit)
        else:
            self._popen = _spawner.submit(self._spawn, inherit).result()

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing if it has ended."""
        if self._popen is not None:
            self._popen.send_signal(number)

    def stop(self) -> None:
        """End it by its stop signals, then by force with its whole session. Does nothing if it never ran."""
        if self._popen is None:
            return
        for number, grace in self.stop_signals:
            if self.wait(0):
                break
            self._popen.send_signal(number)
            self.wait(grace)
        self.kill()
        self._popen.wait()
        self.close()
        self._popen = None

    def close(self) -> None:
        """Close the pipe to a process that has ended."""
        if self._popen and self._popen.stdin:
            self._popen.stdin.close()

    def kill(self) -> None:
        """End it and its whole session at once; :meth:`stop` has to follow."""
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
        """How it ended, and the last lines of its log."""
        code = "is still running" if self.exit_code is None else f"ended with exit code {self.exit_code}"
        if self.log is None:
            return f"{self.name} {code}"
        return f"{self.name} {code}. Its log is {str(self.log)!r}:\n{self.printed()}"

    def printed(self, lines: int = 15) -> str:
        """The last lines that it has written to its log since it was started."""
        if self.log is None:
            return ""
        with self.log.open("rb") as file:
            file.seek(self._log_from)
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])

    def _spawn(self, inherit: int | None) -> subprocess.Popen[bytes]:
        with ExitStack() as opened:
            log = None if self.log is None else opened.enter_context(_open_log(self.log))
            self._log_from = 0 if log is None else log.tell()
            return subprocess.Popen(
                launch_command(self.argv, death_signal=self.death_signal, account=self.account),
                stdin=subprocess.DEVNULL if sys.platform == "linux" else subprocess.PIPE,
                stdout=log,
                stderr=None if log is None else subprocess.STDOUT,
                env=dict(self.env),
                cwd=self.cwd,
                pass_fds=() if inherit is None else (inherit,),
                start_new_session=True,  # the terminal's Ctrl-C is for the supervisor alone
            )


def _open_log(path: Path) -> BinaryIO:
    """Open the log to append to it; a large one is kept under another name."""
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab")
