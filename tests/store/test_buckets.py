"""The script that counts model calls in Redis, against a real one, at moments given by the test."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest
import redis

from dspex.settings import Backends
from workers.lm.limits.buckets import GRACE_SECONDS, LEASE_SECONDS, MARKER, Bucket, Buckets

T = 1_700_000_000_000
_permits = count()


@pytest.fixture
async def buckets(backends: Backends) -> AsyncIterator[Buckets]:
    """Redis, as it is long after it was emptied."""
    opened = Buckets(backends.broker_url)
    with redis.Redis.from_url(backends.broker_url) as client:
        client.set(MARKER, T - 3_600_000)
    yield opened
    await opened.close()


@pytest.fixture
def raw(backends: Backends) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(backends.broker_url, decode_responses=True) as opened:
        yield opened


async def wait(buckets: Buckets, at: float, *bucket: Bucket, tokens: int = 0, permit: str = "") -> float:
    """What a call would have to wait for at ``at`` seconds; it is counted if that is nothing."""
    taken = await buckets.take(bucket, permit or str(next(_permits)), tokens=tokens, now_ms=T + int(at * 1000))
    return taken.wait_seconds


async def test_no_minute_holds_more_calls_than_the_limit(buckets: Buckets) -> None:
    limited = Bucket("m", per_minute=30)
    at, begun = 0.0, []
    random.seed(5)
    for _ in range(400):
        at += random.expovariate(2.0)
        if not await wait(buckets, at, limited):
            begun.append(at)
    most = max(sum(1 for other in begun if moment <= other < moment + 60) for moment in begun)
    assert most == 30
    assert len(begun) >= 30 * (at // 61)


async def test_it_says_how_long_to_wait(buckets: Buckets) -> None:
    limited = Bucket("m", per_minute=2)
    assert [await wait(buckets, at, limited) for at in (0.0, 10.0, 20.0)] == [0, 0, 41.0]
    assert await wait(buckets, 20.0 + 40.9, limited) == pytest.approx(0.1)
    assert await wait(buckets, 20.0 + 41.0, limited) == 0


async def test_tokens_are_corrected_when_the_call_is_over(buckets: Buckets) -> None:
    limited = Bucket("m", tokens_per_minute=1000)
    first = await buckets.take([limited], "a", tokens=900, now_ms=T)
    assert await wait(buckets, 1, limited, tokens=200) == 60.0
    await buckets.give([limited], "a", second=first.second, correction=-600, now_ms=T + 2000)
    second = await buckets.take([limited], "b", tokens=200, now_ms=T + 3000)
    assert second.wait_seconds == 0
    await buckets.give([limited], "b", second=second.second, correction=+2000, now_ms=T + 4000)
    assert await wait(buckets, 5, limited, tokens=1) == 59.0, "what was used beyond the limit is waited off"
    assert await wait(buckets, 64, limited, tokens=5000) == 0, "what is larger than the limit goes alone"


async def test_calls_under_way_are_counted_and_a_killed_workers_come_back(buckets: Buckets) -> None:
    limited = Bucket("m", concurrency=2)
    assert [await wait(buckets, 0, limited, permit=name) for name in "abc"] == [0, 0, 0.001]
    await buckets.give([limited], "a", second=0, now_ms=T + 1000)
    assert await wait(buckets, 1, limited, permit="c") == 0
    await buckets.renew({"c": [limited]}, now_ms=T + 14_000)
    assert await wait(buckets, LEASE_SECONDS - 0.001, limited) > 0
    assert await wait(buckets, LEASE_SECONDS, limited) == 0, "nobody renewed b"
    assert await wait(buckets, LEASE_SECONDS, limited) > 0, "c was renewed"


async def test_a_call_is_counted_everywhere_or_nowhere(buckets: Buckets, raw: redis.Redis) -> None:
    free, full = Bucket("free", concurrency=9, per_minute=9), Bucket("full", per_minute=1)
    assert await wait(buckets, 0, full) == 0
    assert await wait(buckets, 0, free, full) > 0
    assert raw.keys("dspex:limit:free:*") == []


async def test_an_emptied_redis_lets_no_burst_through(buckets: Buckets, raw: redis.Redis) -> None:
    limited = Bucket("m", per_minute=60)
    before = [0.0] * 60
    assert not any([await wait(buckets, at, limited) for at in before])
    raw.flushdb()
    after = [at / 10 for at in range(10, 700) if not await wait(buckets, at / 10, limited)]
    for at in after:
        assert sum(1 for other in after if other <= at) <= at - 1 + 1e-6, "a call for each second since"
    most = max(sum(1 for other in before + after if moment <= other < moment + 60) for moment in before + after)
    assert most <= 60 + 59


async def test_an_emptied_redis_waits_for_the_workers_to_tell_what_they_have_under_way(
    buckets: Buckets, raw: redis.Redis
) -> None:
    limited = Bucket("m", concurrency=2)
    await wait(buckets, 0, limited, permit="a")
    await wait(buckets, 0, limited, permit="b")
    raw.flushdb()
    assert await wait(buckets, 1, limited) == GRACE_SECONDS
    await buckets.renew({"a": [limited], "b": [limited]}, now_ms=T + 5000)
    assert 0 < await wait(buckets, 1 + GRACE_SECONDS, limited) < 0.01, "both are known again"
    await buckets.give([limited], "a", second=0, now_ms=T + 12_000)
    assert await wait(buckets, 12, limited) == 0


async def test_a_correction_that_comes_after_a_flush_gives_nothing_away(buckets: Buckets, raw: redis.Redis) -> None:
    limited = Bucket("m", tokens_per_minute=100)
    taken = await buckets.take([limited], "a", tokens=100, now_ms=T)
    raw.flushdb()
    await buckets.give([limited], "a", second=taken.second, correction=-90, now_ms=T + 1000)
    assert raw.keys("dspex:limit:*") == []
    assert await wait(buckets, 31, limited, tokens=100) == 30.0


GARBAGE: list[list[str]] = [
    ["SET", MARKER, "x"], ["LPUSH", MARKER, "x"], ["SET", MARKER, "nan"],
    ["SET", "dspex:limit:m:used", "x"], ["SET", "dspex:limit:m:held", "x"],
    ["HSET", "dspex:limit:m:used", "x", "y"], ["HSET", "dspex:limit:m:used", f"c{T // 1000}", "1e9"],
    ["HSET", "dspex:limit:m:used", "c99999999999", "1000"], ["HSET", "dspex:limit:m:used", "c", "1"],
    ["ZADD", "dspex:limit:m:held", "99999999999999", "forged", "+inf", "for ever"],
]  # fmt: skip


@pytest.mark.parametrize("command", GARBAGE, ids=" ".join)
async def test_what_another_client_wrote_is_removed_and_calls_go_on(
    buckets: Buckets, raw: redis.Redis, command: list[str]
) -> None:
    limited = Bucket("m", concurrency=1, per_minute=60, tokens_per_minute=1000)
    raw.delete(MARKER)
    raw.execute_command(*command)  # type: ignore[no-untyped-call]
    await wait(buckets, 0, limited)
    assert await wait(buckets, 90, limited, tokens=10, permit="a") == 0
    await buckets.give([limited], "a", second=T // 1000 + 90, correction=5, now_ms=T + 91_000)
    assert await wait(buckets, 92, limited, tokens=10, permit="b") == 0
