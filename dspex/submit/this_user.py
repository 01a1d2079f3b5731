"""The user of the machine that this process runs as."""

from __future__ import annotations

import getpass
import os

__all__ = ["this_user"]


def this_user() -> str:
    """The name of the user, or the number: a container may run as a user without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
