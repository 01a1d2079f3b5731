"""Waiting: for executions to end, by threads and by tasks."""
