"""The submit rate of a client: DSPEX_RATE_LIMIT_PER_MINUTE, counted in Redis for all processes of the same name.

``dspex:rate:CLIENT`` in Redis holds one number: the time, in milliseconds of Redis' clock, at which all submits so far
are paid off at the allowed rate (the generic cell rate algorithm). One script reads and moves it, so any number of
processes together keep exactly to the rate: a burst at once, and then one submit in each interval.

Without Redis each process counts by itself with the same limits, and returns to Redis within a second of its recovery.
Meanwhile several processes may together exceed the limit, and none is blocked for ever.
"""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable

import redis

from dspex.errors import RateLimited
from dspex.publish.broker import Broker
from dspex.settings import Settings
from dspex.submit.this_user import this_user

__all__ = ["SubmitRate"]

#: The longest wait for Redis to count a submit.
TIMEOUT_SECONDS = 0.5
#: How long Redis is not asked after a failure.
AWAY_SECONDS = 1.0

# Returns by how many milliseconds the submit is too early; 0: it is counted.
_SCRIPT = """
local interval, burst, now = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if now == 0 then
    local time = redis.call('TIME')
    now = time[1] * 1000 + time[2] / 1000
end
-- Any client of Redis can write to this key. SET replaces what is no number or has another type. A client that has
-- just used its burst has the latest time that is accepted.
local kept = redis.pcall('GET', KEYS[1])
local paid = type(kept) == 'string' and tonumber(kept) or 0
local most = now + interval * burst
if not (paid >= now) then paid = now end
if paid > most then
    paid = most
    redis.call('SET', KEYS[1], string.format('%.3f', paid), 'PX', math.ceil(paid - now) + 1000)
end
paid = paid + interval
local early = paid - now - interval * burst
-- A thousandth of a millisecond allows for floating-point error.
if early > 0.001 then return tostring(early) end
redis.call('SET', KEYS[1], string.format('%.3f', paid), 'PX', math.ceil(paid - now) + 1000)
return '0'
"""


class SubmitRate:
    """Counts the submits of this client. Safe to share between threads; costs nothing without a limit.

    With a ``client`` it counts the submits that this process makes for that one, with a limit of its own.
    """

    def __init__(
        self, settings: Settings, broker: Broker, *, client: str | None = None, per_minute: int | None = None
    ) -> None:
        self.per_minute = settings.rate_limit_per_minute if client is None else per_minute
        self.burst = settings.rate_limit_burst if per_minute is None else min(settings.rate_limit_burst, per_minute)
        self.client = client or settings.client or f"{this_user()}@{socket.gethostname()}"
        self._interval_ms = 60_000 / self.per_minute if self.per_minute else 0.0
        self._script = broker.script(_SCRIPT, seconds=TIMEOUT_SECONDS)
        self._lock = threading.Lock()
        self._away_until = 0.0
        self._paid_ms = 0.0

    def take(self) -> None:
        """Count a submit. Raises RateLimited, with ``retry_after_seconds``, when it is too early."""
        if self.per_minute is None:
            return
        if (early_ms := self.early_ms()) > 0:
            seconds = early_ms / 1000
            raise RateLimited(
                f"client {self.client!r} has submitted as often as it may ({self.per_minute} a minute, {self.burst} at "
                f"once), and nothing was stored: try again in {seconds:.3g} s, or raise DSPEX_RATE_LIMIT_PER_MINUTE",
                retry_after_seconds=round(seconds, 3), client=self.client,
            )  # fmt: skip

    def wait(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Count a submit as soon as the limit allows, for the rows of a batch, which must not be cut short."""
        while self.per_minute is not None and (early_ms := self.early_ms()) > 0:
            sleep(early_ms / 1000)

    def early_ms(self, now_ms: int = 0) -> float:
        """Milliseconds until a submit may be counted; 0: it is counted. ``now_ms`` is for tests; 0: use the clock."""
        if time.monotonic() >= self._away_until:
            try:
                return self._milliseconds(self._run(now_ms))
            except (redis.RedisError, OSError):
                self._away_until = time.monotonic() + AWAY_SECONDS
        return self._locally(now_ms or time.monotonic() * 1000)

    def _milliseconds(self, reply: object) -> float:
        """The number in the script's reply. Raises redis.InvalidResponse for anything else."""
        text = reply.decode("latin-1") if isinstance(reply, bytes) else str(reply)
        try:
            early = float(text)
        except ValueError:
            early = math.nan
        if not 0 <= early <= self._interval_ms * (self.burst + 1):
            raise redis.InvalidResponse("the script that counts submits returns a number of milliseconds")
        return early

    def _run(self, now_ms: int) -> object:
        return self._script([f"dspex:rate:{self.client}"], [self._interval_ms, self.burst, now_ms])

    def _locally(self, now_ms: float) -> float:
        """The same count for this process alone."""
        with self._lock:
            paid = max(self._paid_ms, now_ms) + self._interval_ms
            early = paid - now_ms - self._interval_ms * self.burst
            if early <= 0.001:
                self._paid_ms, early = paid, 0.0
            return early
