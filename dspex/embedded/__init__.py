"""The embedded stack: Postgres, Redis and a small local model from their wheels, with nothing to install by hand.

Importing this package is cheap: it brings only what finds a running stack. The rest is in its modules::

    state       the files of a home, its lock, and :func:`read_stack`
    launch      the few lines that run in a child before it becomes a server
    process     a child process: started, watched, stopped, never left behind
    postgres    redis       the two servers
    servers     EmbeddedServers: both of them
    monitor     keeps processes running and reports what they do
    stack       EmbeddedStack: servers, migrations, workers, beat, Flower and the local model
    model       ensure_local_model, for whoever wants to call the local model
    model_server    the process that serves it
"""

from __future__ import annotations

from dspex.embedded.home import Stack, StackRunning, read_stack

__all__ = ["Stack", "StackRunning", "read_stack"]
