"""The HTTP interface: JSON, server-sent events and JSON lines under ``/v1``."""
