"""Programs: what a user declares, and what an adapter must be able to do to run it."""
