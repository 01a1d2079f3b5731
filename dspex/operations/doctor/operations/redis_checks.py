"""Redis: it answers, keeps what waits, and has room."""

from __future__ import annotations

import time

from dspex.operations.doctor.check import Finding, Need, check, met, not_met, warning
from dspex.operations.doctor.deployment import Deployment

SLOW_MS = 5.0
NEARLY_ALL = 0.8
PINGS = 9


@check("Redis answers", mend="start Redis, or correct DSPEX_BROKER_URL; see its log")
def reachable(deployment: Deployment) -> Finding:
    """Redis can be connected to with the settings here, and a PING takes no more than a few milliseconds."""
    if Need.REDIS in deployment.missing:
        return not_met(deployment.reasons[Need.REDIS])
    times = []
    with deployment.redis() as client:
        for _ in range(PINGS):
            began = time.perf_counter()
            client.ping()
            times.append((time.perf_counter() - began) * 1000)
    took = min(times)  # the others waited for this process
    return (met if took < SLOW_MS else warning)(f"{deployment.redis_where}, {took:.2f} ms", took_ms=took)


@check(
    "Nothing that waits is evicted",
    Need.REDIS,
    mend="CONFIG SET maxmemory-policy noeviction, and the same in redis.conf or the provider's parameters",
)
def memory_policy(deployment: Deployment) -> Finding:
    """With an allkeys policy a Redis that is full drops messages. Nothing is lost, for the pump dispatches them again,
    but work is late. DSPex needs no persistence of Redis."""
    policy = str(deployment.redis_info.get("maxmemory_policy", "unknown"))
    return not_met(policy) if policy.startswith("allkeys") else met(policy)


@check(
    "Redis has memory left", Need.REDIS, mend="raise maxmemory, or find what else fills this Redis: redis-cli --bigkeys"
)
def memory(deployment: Deployment) -> Finding:
    """What Redis uses is well below its maxmemory; DSPex itself needs some megabytes, whatever the backlog."""
    info = deployment.redis_info
    used, most = int(info["used_memory"]), int(info.get("maxmemory") or 0)
    if not most:
        return met(f"{used / 1e6:.1f} MB used, no limit set")
    said = f"{used / 1e6:.1f} of {most / 1e6:.0f} MB used"
    return (warning if used > NEARLY_ALL * most else met)(said, used_bytes=used, most_bytes=most)


@check("Redis has room for every client", Need.REDIS, mend="raise maxclients, and the open files that Redis is allowed")
def clients(deployment: Deployment) -> Finding:
    """The clients of Redis are well below its maxclients; a worker process holds about a dozen."""
    info = deployment.redis_info
    used, most = int(info["connected_clients"]), int(info.get("maxclients") or 10_000)
    return (warning if used > NEARLY_ALL * most else met)(f"{used:,} of {most:,} used", used=used, most=most)


@check(
    "Redis is a primary of its own",
    Need.REDIS,
    mend="point DSPEX_BROKER_URL at the primary; a Redis Cluster cannot be used, Sentinel and managed primaries can",
)
def role(deployment: Deployment) -> Finding:
    """It takes writes, and is no cluster, over which a queue of several lists cannot be read at once."""
    info = deployment.redis_info
    if info.get("role") != "master":
        return not_met(f"its role is {info.get('role')}")
    return not_met("it is a cluster") if int(info.get("cluster_enabled") or 0) else met("a primary")


@check(
    "Redis can write what it is told to save",
    Need.REDIS,
    mend="free its disk, or set vm.overcommit_memory=1; or CONFIG "
    "SET save '' and appendonly no: DSPex needs no persistence",
)
def saving(deployment: Deployment) -> Finding:
    """A Redis that is set to save and cannot refuses every write, and then nothing is dispatched."""
    info = deployment.redis_info
    states = {name: info.get(name, "ok") for name in ("rdb_last_bgsave_status", "aof_last_write_status")}
    wrong = [name for name, state in states.items() if state != "ok"]
    return not_met(f"failed: {', '.join(wrong)}") if wrong else met("its last writes went well")
