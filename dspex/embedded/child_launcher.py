"""Runs in a child before it becomes a server: ``python -I -S launch.py OPTIONS COMMAND…``.

It changes from root to another account, asks the kernel to signal the child when its supervisor dies, and executes
the command. It is a program, not a ``preexec_fn``: Python code between fork and exec deadlocks in a process with
threads. It imports only the standard library, and no other module of DSPex.

    --parent PID        the supervisor; nothing is executed if it has ended already
    --death-signal N    the signal to get when the supervisor dies
    --uid N --gid N     the account to become
    --reach             keep the capability to enter directories that are closed to the account

On Linux the kernel sends the death signal. On other systems this process stays as the parent of the command: its
standard input is a pipe whose other end only the supervisor holds, so the pipe ends when the supervisor dies.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import signal
import subprocess
import sys
from types import FrameType
from typing import NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
#: CAP_DAC_READ_SEARCH is enough; CAP_DAC_OVERRIDE is what a container's root usually has instead.
REACHING_CAPABILITIES = (2, 1)
_CAPABILITY_VERSION_3 = 0x20080522

#: The exit code when this process is not permitted to do what its options ask; standard error has the reason.
REFUSED = 77


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--death-signal", type=int, required=True)
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    parser.add_argument("--reach", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.uid is not None:
        _become(options.uid, options.gid, reach=options.reach)
    if sys.platform == "linux":
        _prctl(PR_SET_PDEATHSIG, options.death_signal)
        if os.getppid() != options.parent:  # it died before the kernel had the death signal
            _refuse("the supervisor has ended")
        os.execvp(options.command[0], options.command)  # noqa: S606
    sys.exit(stay_between(options.command, options.death_signal))


def _become(uid: int, gid: int, *, reach: bool) -> None:
    if reach:  # keep capabilities after the change, also for access(2)
        _prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    try:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    except OSError as error:
        _refuse(f"cannot change to the account {uid}:{gid}: {error.strerror}")
    if reach:
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, _keep_one_of(REACHING_CAPABILITIES))


def _keep_one_of(capabilities: tuple[int, ...]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    header = ctypes.byref(_CapabilityHeader(_CAPABILITY_VERSION_3, 0))
    data = (_CapabilityData * 2)()
    _check(libc.capget(header, data), "capget")
    kept = next((c for c in capabilities if data[0].permitted & (1 << c)), None)
    if kept is None:
        _refuse("neither CAP_DAC_READ_SEARCH nor CAP_DAC_OVERRIDE is permitted")
    bits = 1 << kept
    data = (_CapabilityData * 2)(_CapabilityData(bits, bits, bits), _CapabilityData(0, 0, 0))
    _check(libc.capset(header, data), "capset")
    return kept


def _prctl(option: int, *arguments: int) -> None:
    numbers = [ctypes.c_ulong(n) for n in (*arguments, *([0] * (4 - len(arguments))))]
    _check(ctypes.CDLL(None, use_errno=True).prctl(option, *numbers), f"prctl({option})")


def _check(result: int, call: str) -> None:
    if result != 0:
        _refuse(f"{call}: {os.strerror(ctypes.get_errno())}")


def _refuse(why: str) -> NoReturn:
    print(why, file=sys.stderr)
    sys.exit(REFUSED)


def stay_between(command: list[str], death_signal: int) -> int:
    """Run the command. Signals are forwarded to it; the end of standard input sends it the death signal."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)

    def forward(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, forward)
    while child.poll() is None:
        if select.select([0], [], [], 0.2)[0]:
            child.send_signal(death_signal)
            return child.wait()
    return child.wait()


if __name__ == "__main__":
    main()
