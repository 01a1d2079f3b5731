"""What a gateway does beside its requests: it fires schedules and sends webhooks.

Any number of gateways may do it at the same time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy.exc import SQLAlchemyError

from dspex.errors import DspexError
from dspex.serve.gateway import Gateway
from dspex.serve.gateway_metrics import schedules_fired

__all__ = ["in_background"]

log = logging.getLogger("dspex.serve")

#: How often a gateway looks for what is due, and how long it waits after a failure.
EVERY_SECONDS = 1.0
RETRY_SECONDS = 5.0


@asynccontextmanager
async def in_background(gateway: Gateway) -> AsyncIterator[None]:
    """Do it while the block runs."""
    tasks = [asyncio.create_task(_again_and_again(gateway, name, work)) for name, work in _duties(gateway).items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _duties(gateway: Gateway) -> dict[str, Callable[[], object]]:
    def fire_due() -> None:
        schedules_fired(gateway.blocking._schedules.fire_due())

    return {"schedules": fire_due, "webhooks": gateway.webhooks.send_due}


async def _again_and_again(gateway: Gateway, name: str, work: Callable[[], object]) -> None:
    failure = ""
    while True:
        pause = EVERY_SECONDS
        try:
            await gateway.in_thread(work)
            failure = ""
        except (DspexError, SQLAlchemyError) as error:
            pause = RETRY_SECONDS
            reason = str(error).split("\n")[0]
            if reason != failure:
                log.warning("%s: %s; it is tried again", name, reason)
            failure = reason
        except Exception:  # an error that nothing expects ends neither this nor what else a gateway does
            pause = RETRY_SECONDS
            log.exception("%s: an unexpected error; it is tried again", name)
        await asyncio.sleep(pause)
