"""Postgres in an event loop."""
