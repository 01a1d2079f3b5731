"""Micro-batching: what waits at the same time shares one statement."""
