"""The clients, and the executions and batches they return."""
