"""A worker process: its services, and the fleet that starts it."""
