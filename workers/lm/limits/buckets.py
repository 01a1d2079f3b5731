"""Rates, tokens and concurrency of model calls, counted in Redis for all workers together.

In Redis, by one script and on Redis' own clock:

``dspex:limits``              when counting began, in milliseconds; missing after Redis was emptied
``dspex:limit:NAME:used``     a hash: calls (``c1700000000``) and tokens (``t1700000000``) by the second they began in
``dspex:limit:NAME:held``     a sorted set: calls under way, by the end of their lease

A rate is a sliding window, so no 60 seconds hold more than the limit. Unknown counts fail safe. After Redis was
emptied, rates begin at zero and grow within a minute to the limit (so a window across that moment holds at most the
limit and a share of it that grows with the seconds since, never a burst), and no call begins for GRACE_SECONDS,
within which the workers have renewed the calls they have under way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import InvalidResponse

from dspex.publish.redis_clients import async_client

__all__ = ["GRACE_SECONDS", "LEASE_SECONDS", "Bucket", "Buckets", "Taken", "two_numbers"]

#: How long a call under way counts without being renewed: after that, the calls of a killed worker are freed.
LEASE_SECONDS = 15.0
#: Longer than workers take to renew all they hold (LEASE_SECONDS / 3).
GRACE_SECONDS = 10.0
#: The timeout of a command. When it is exceeded, calls wait, or their attempts are handed back.
COMMAND_TIMEOUT_SECONDS = 2.0

MARKER = "dspex:limits"

_SCRIPT = """
local op, now, permit = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local lease, grace, tokens = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if now == 0 then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local second = math.floor(now / 1000)

-- Any client of Redis can write to these keys: what this script did not write is removed.
local function own(key, type)
    local found = redis.call('TYPE', key).ok
    if found ~= type and found ~= 'none' then redis.call('DEL', key) end
end
own(KEYS[1], 'string')
for i = 2, #KEYS do
    own(KEYS[i] .. ':used', 'hash')
    own(KEYS[i] .. ':held', 'zset')
end

local born = tonumber(redis.call('GET', KEYS[1]) or now)
if not born or not (born < now) then
    born = now
    redis.call('SET', KEYS[1], born)
end
local age = now - born

local function hold(key)
    redis.call('ZADD', key .. ':held', now + lease, permit)
    redis.call('PEXPIRE', key .. ':held', lease)
end

local function used(key)
    local calls, spent, old = {}, {}, {}
    local entries = redis.call('HGETALL', key .. ':used')
    for i = 1, #entries, 2 do
        local kind, at = string.match(entries[i], '^([ct])(%d+)$')
        local count = string.match(entries[i + 1], '^%-?%d+$')
        at = tonumber(at)
        if not at or not count or #count > 15 or at + 61 <= now / 1000 or at > second + 60 then
            old[#old + 1] = entries[i]
        else
            local entry = {at, tonumber(count)}
            if kind == 'c' then calls[#calls + 1] = entry else spent[#spent + 1] = entry end
        end
    end
    for i = 1, #old, 1000 do
        redis.call('HDEL', key .. ':used', unpack(old, i, math.min(i + 999, #old)))
    end
    return calls, spent
end

-- How many milliseconds until `need` more fit the limit. A call larger than the limit goes alone.
local function wait_for(entries, limit, need)
    need = math.min(need, limit)
    local sum = 0
    for _, entry in ipairs(entries) do sum = sum + entry[2] end
    local wait = 0
    if age < 60000 then wait = math.max(wait, math.ceil((sum + need) * 60000 / limit - age)) end
    if sum + need > limit then
        table.sort(entries, function(a, b) return a[1] < b[1] end)
        local excess = sum + need - limit
        for _, entry in ipairs(entries) do
            excess = excess - entry[2]
            if excess <= 0 then
                wait = math.max(wait, (entry[1] + 61) * 1000 - now)
                break
            end
        end
    end
    return math.max(wait, 0)
end

if op == 'take' then
    local wait = 0
    for i = 2, #KEYS do
        local at = 7 + (i - 2) * 3
        local concurrency, per_minute = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
        local per_minute_tokens = tonumber(ARGV[at + 2])
        if concurrency > 0 then
            redis.call('ZREMRANGEBYSCORE', KEYS[i] .. ':held', '-inf', now)
            redis.call('ZREMRANGEBYSCORE', KEYS[i] .. ':held', '(' .. string.format('%.0f', now + 2 * lease), '+inf')
            if age < grace then
                wait = math.max(wait, grace - age)
            elseif redis.call('ZCARD', KEYS[i] .. ':held') >= concurrency then
                wait = math.max(wait, 1)
            end
        end
        if per_minute > 0 or per_minute_tokens > 0 then
            local calls, spent = used(KEYS[i])
            if per_minute > 0 then wait = math.max(wait, wait_for(calls, per_minute, 1)) end
            if per_minute_tokens > 0 then wait = math.max(wait, wait_for(spent, per_minute_tokens, tokens)) end
        end
    end
    if wait > 0 then return {wait, second} end
    for i = 2, #KEYS do
        local at = 7 + (i - 2) * 3
        if tonumber(ARGV[at]) > 0 then hold(KEYS[i]) end
        if tonumber(ARGV[at + 1]) > 0 then redis.call('HINCRBY', KEYS[i] .. ':used', 'c' .. second, 1) end
        if tonumber(ARGV[at + 2]) > 0 and tokens > 0 then
            redis.call('HINCRBY', KEYS[i] .. ':used', 't' .. second, tokens)
        end
        redis.call('PEXPIRE', KEYS[i] .. ':used', 120000)
    end
    return {0, second}
end
for i = 2, #KEYS do
    if op == 'renew' then
        hold(KEYS[i])
    else
        redis.call('ZREM', KEYS[i] .. ':held', permit)
        local field = 't' .. ARGV[7]
        if tokens > 0 or (tokens < 0 and redis.call('HEXISTS', KEYS[i] .. ':used', field) == 1) then
            redis.pcall('HINCRBY', KEYS[i] .. ':used', field, tokens)  -- it is not a number if another client wrote it
            redis.call('PEXPIRE', KEYS[i] .. ':used', 120000)
        end
    end
end
return {0, second}
"""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A counter of calls and its limits; None is no limit."""

    name: str
    concurrency: int | None = None
    per_minute: int | None = None
    tokens_per_minute: int | None = None

    @property
    def key(self) -> str:
        return f"dspex:limit:{self.name}"


@dataclass(frozen=True, slots=True)
class Taken:
    """``wait_seconds`` until it is worth asking again; 0: the call may begin, in this ``second`` of Redis' clock."""

    wait_seconds: float
    second: int


class Buckets:
    """The script, on connections of its own. ``now_ms`` of each method is for tests: 0 is Redis' own clock.

    Every method raises redis.RedisError or OSError when Redis is out of reach.
    """

    def __init__(self, broker_url: str) -> None:
        self._redis = async_client(
            broker_url,
            socket_connect_timeout=COMMAND_TIMEOUT_SECONDS,
            socket_timeout=COMMAND_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),  # a take that is repeated would count twice
        )
        self._script = self._redis.register_script(_SCRIPT)

    async def begin(self) -> None:
        """Begin to count, so that the first minute is over when the first calls come."""
        await self._run("renew", [], "", 0)

    async def take(self, buckets: Sequence[Bucket], permit: str, *, tokens: int = 0, now_ms: int = 0) -> Taken:
        """Count a call in all of these buckets, or in none if one of them is full."""
        limits = [n or 0 for b in buckets for n in (b.concurrency, b.per_minute, b.tokens_per_minute)]
        wait_ms, second = await self._run("take", buckets, permit, tokens, *limits, now_ms=now_ms)
        return Taken(wait_ms / 1000, second)

    async def give(
        self, buckets: Sequence[Bucket], permit: str, *, second: int, correction: int = 0, now_ms: int = 0
    ) -> None:
        """The call is over; it took ``correction`` tokens more than was counted when it began."""
        held = [bucket for bucket in buckets if bucket.concurrency or (bucket.tokens_per_minute and correction)]
        if held:
            await self._run("give", held, permit, correction, second, now_ms=now_ms)

    async def renew(self, permits: Mapping[str, Sequence[Bucket]], *, now_ms: int = 0) -> None:
        """Renew calls that are under way, also if Redis lost them."""
        for permit, buckets in permits.items():
            if held := [bucket for bucket in buckets if bucket.concurrency]:
                await self._run("renew", held, permit, 0, now_ms=now_ms)

    async def close(self) -> None:
        await self._redis.aclose()

    async def _run(
        self, op: str, buckets: Sequence[Bucket], permit: str, tokens: int, *arguments: int, now_ms: int = 0
    ) -> tuple[int, int]:
        lease_ms, grace_ms = int(LEASE_SECONDS * 1000), int(GRACE_SECONDS * 1000)
        reply = await self._script(
            keys=[MARKER, *(bucket.key for bucket in buckets)],
            args=[op, now_ms, permit, lease_ms, grace_ms, tokens, *arguments],
        )
        return two_numbers(reply)


def two_numbers(reply: object) -> tuple[int, int]:
    """The reply of the script. Raises redis.InvalidResponse for anything else."""
    match reply:
        case [int() as wait_ms, int() as second] if wait_ms >= 0:
            return wait_ms, second
    raise InvalidResponse("the script that counts model calls returns two numbers")
