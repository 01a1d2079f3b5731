"""The limits of model calls, by program and by model, across all workers.

``buckets.py``  rates, tokens and concurrency, counted in Redis by one script
``permits.py``  permits: a call waits a moment for one, or gives its slot back
``budget.py``   budgets: what a program may spend, counted in Postgres (dspex/store/lifecycle/budgets.py)

The limits of executions (how many run, how many begin within a minute) are applied where executions are dispatched:
dspex/store/lifecycle/dispatch.py.
"""
