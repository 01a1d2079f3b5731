"""Retention: how long executions and audit trails are kept."""
