"""What model calls wait for: the limits of their program and of their model, across all workers.

``buckets.py``  rates, tokens and concurrency, counted in Redis by one script
``permits.py``  a call's way through them: wait a moment, or give the slot back
``budget.py``   what a program may spend, counted in Postgres (dspex/store/lifecycle/budgets.py)

How many executions of a program run, and begin within a minute, is not decided here but where they are dispatched:
dspex/store/lifecycle/dispatch.py.
"""
