"""The embedded stack: Postgres, Redis and a small local model from their wheels, with nothing to install by hand.

Importing this package is cheap: it loads only what finds a running stack. The rest is in its modules::

    home                  the files of a home, its lock, and :func:`read_stack`
    embedded_stack        EmbeddedStack: servers, migrations, workers, beat, Flower and the local model
    embedded_servers      EmbeddedServers: Postgres and Redis together
    backend_server        what the two have in common: postgres_server, redis_server
    application_process   a worker, beat or Flower as a process of the stack
    bundled_model         the local model, which model_server serves
    process_monitor       keeps processes running, with the delays of restarts, and reports stack_progress
    child_process         a child process; child_launcher runs in the child before its command
    ports                 free TCP ports
"""

from __future__ import annotations

from dspex.embedded.home import Stack, StackRunning, read_stack

__all__ = ["Stack", "StackRunning", "read_stack"]
