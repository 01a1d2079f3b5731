"""What is shown of executions and their events: JSON-friendly data, without secrets."""
