"""Redis: it answers, keeps queued messages, and has free memory."""

from __future__ import annotations

import time

from dspex.operations.doctor.check import Finding, Need, check, met, not_met, unknown, warning
from dspex.operations.doctor.deployment import Deployment
from dspex.publish.redis_refusals import refusal_fix, refusal_text, write_refusal

SLOW_MS = 5.0
NEARLY_ALL = 0.8
PINGS = 9


@check("Redis answers", fix="start Redis, or correct DSPEX_BROKER_URL; see its log")
def reachable(deployment: Deployment) -> Finding:
    """Redis accepts a connection with the settings here, and a PING takes a few milliseconds at most."""
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
    "Queued messages are not evicted",
    Need.REDIS,
    fix="CONFIG SET maxmemory-policy noeviction, and the same in redis.conf or the provider's parameters",
)
def memory_policy(deployment: Deployment) -> Finding:
    """With an allkeys policy a full Redis drops messages. Nothing is lost, because the pump dispatches them again, but
    work is late. DSPex needs no persistence of Redis."""
    policy = deployment.redis_info.get("maxmemory_policy")
    if policy is None:
        return unknown("this Redis does not report its maxmemory-policy", fix="see its configuration")
    return not_met(policy) if policy.startswith("allkeys") else met(policy)


@check(
    "Redis has free memory",
    Need.REDIS,
    fix="raise maxmemory, or find out what else fills this Redis: redis-cli --bigkeys",
)
def memory(deployment: Deployment) -> Finding:
    """Redis uses well below its maxmemory; DSPex itself needs some megabytes, whatever the backlog."""
    info = deployment.redis_info
    used, most = int(info["used_memory"]), int(info.get("maxmemory") or 0)
    if not most:
        return met(f"{used / 1e6:.1f} MB used, no limit set")
    evidence = f"{used / 1e6:.1f} of {most / 1e6:.0f} MB used"
    return (warning if used > NEARLY_ALL * most else met)(evidence, used_bytes=used, most_bytes=most)


@check("Redis has room for every client", Need.REDIS, fix="raise maxclients, and the limit of open files of Redis")
def clients(deployment: Deployment) -> Finding:
    """Redis has well fewer clients than its maxclients; a worker process uses about a dozen."""
    info = deployment.redis_info
    used, most = int(info["connected_clients"]), int(info.get("maxclients") or 10_000)
    return (warning if used > NEARLY_ALL * most else met)(f"{used:,} of {most:,} used", used=used, most=most)


@check(
    "Redis is a primary",
    Need.REDIS,
    fix="point DSPEX_BROKER_URL at the primary; Redis Cluster is not supported, Sentinel and managed primaries are",
)
def role(deployment: Deployment) -> Finding:
    """It takes writes, and is not a cluster: a cluster cannot read a queue of several lists at once."""
    info = deployment.redis_info
    if info.get("role") != "master":
        return not_met(f"its role is {info.get('role')}")
    if int(info.get("cluster_enabled") or 0):
        return not_met("it is a cluster")
    with deployment.redis() as client:
        refusal = write_refusal(client)
    if refusal is not None:
        return not_met(f"it refuses writes: {refusal_text(refusal)}", fix=refusal_fix(refusal))
    return met("a primary, which takes writes")


@check(
    "Redis can save to disk",
    Need.REDIS,
    fix="free its disk, or set vm.overcommit_memory=1; or CONFIG "
    "SET save '' and appendonly no: DSPex needs no persistence",
)
def saving(deployment: Deployment) -> Finding:
    """A Redis that is configured to save and cannot refuses every write; then nothing is dispatched."""
    info = deployment.redis_info
    states = {name: info.get(name, "ok") for name in ("rdb_last_bgsave_status", "aof_last_write_status")}
    wrong = [name for name, state in states.items() if state != "ok"]
    return not_met(f"failed: {', '.join(wrong)}") if wrong else met("its last saves succeeded")
