"""A model that keeps the bill: each call takes a second, and a call that was answered was paid for."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from typing import Self

from aiohttp import web

__all__ = ["CALL_SECONDS", "Bill"]

CALL_SECONDS = 1.0

#: How the tasks of all systems name their calls.
CALL = re.compile(r"task (\d+).*?step (\d+)")


class Bill:
    """The server, in a thread of its own. ``begun`` and ``paid`` count calls by ``(task, step)``."""

    def __init__(self) -> None:
        self.begun: Counter[tuple[int, int]] = Counter()
        self.paid: Counter[tuple[int, int]] = Counter()
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bill", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def finished(self, steps: int) -> int:
        """How many tasks had all of their calls answered at least once."""
        return sum(step == steps - 1 for _, step in self.paid)

    @property
    def paid_twice(self) -> int:
        """Calls that were answered again after they had been answered."""
        return self.paid.total() - len(self.paid)

    async def _complete(self, request: web.Request) -> web.Response:
        found = CALL.search(await request.text())
        assert found is not None
        call = int(found[1]), int(found[2])
        self.begun[call] += 1
        await asyncio.sleep(CALL_SECONDS)
        self.paid[call] += 1
        return web.json_response(
            {
                "choices": [{"message": {"role": "assistant", "content": "done"}}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1},
            }
        )

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()
