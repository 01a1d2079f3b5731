"""What the pump's leader does: its duties, its own observation of workers and of time, and recovery."""
