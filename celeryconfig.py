"""Celery's settings, with a reason beside each. What a user may change is a DSPEX_* setting: see dspex/settings/."""

from kombu import Exchange, Queue

from dspex.publish.broker import LANES

# JSON only, and nothing is ever pickled: a message is data from outside.
accept_content = ["json"]
task_serializer = "json"
event_serializer = "json"

# Results are in Postgres; Celery's Redis backend costs 17 commands a task and loses results with Redis.
result_backend = None
task_ignore_result = True
task_store_errors_even_if_ignored = False

# Hundreds of executions on one asyncio loop in one process; scale by processes.
worker_pool = "workers.pool:AsyncioPool"
# Refuses and counts messages that DSPex did not send, without logging their content.
worker_consumer = "workers.consume.consumer:Consumer"
# Messages a worker may hold for each execution it can run. The pump bounds what waits in Redis
# (workers/process/pump.py). A worker that took no more than it can run would not see another program's execution
# behind them (workers/attempt/slots.py).
worker_prefetch_multiplier = 4
# A message is acknowledged when its executions are settled, so the prefetch window counts what is in flight.
task_acks_late = True
# Leases recover the work of a dead worker; a repeated message finds nothing to claim.
task_reject_on_worker_lost = False
# A program's Limits hold across the fleet; a worker's own limit would count messages, not executions.
worker_disable_rate_limits = True
# Executions do not depend on Redis while they run: they continue, and are settled in Postgres.
worker_cancel_long_running_tasks_on_connection_loss = False
# kombu's redelivery is off, since leases recover executions: see workers/consume/redis_transport.py.
broker_transport_options = {
    # The lists of the queue, in the order in which they are served.
    "priority_steps": LANES,
    # A Redis that hangs must not hang the worker.
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 10,
}
# A worker that starts before Redis waits for it without a time limit.
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
# An error that Redis answers with while a worker connects is waited out, too; see workers/consume/consumer.py.
broker_channel_error_retry = True

# Executions and beat's tasks have queues of their own, so that health checks do not wait behind work.
task_default_queue = "dspex.maintenance"
task_queues = [
    Queue("dspex", Exchange("dspex"), "dspex"),
    Queue("dspex.maintenance", Exchange("dspex.maintenance"), "dspex.maintenance"),
]
task_routes = {"dspex.execute": {"queue": "dspex"}}
task_create_missing_queues = False

# Off until Flower asks for them, which it does every 5 s: events took a fifth of a busy worker's CPU, listener or not.
# They carry ids and program names, never inputs or outputs.
worker_send_task_events = False
# Unread events are dropped soon instead of filling Redis.
event_queue_ttl = 5.0
event_queue_expires = 60.0

# Our own logging: see workers/app.py.
worker_hijack_root_logger = False
# Nothing here is imported by name from a message.
task_protocol = 2
enable_utc = True
# The schedule is two fixed intervals; the persistent scheduler would keep them in a pickle. This one logs a line for a
# task that it cannot send.
beat_scheduler = "workers.consume.beat_scheduler:Scheduler"
