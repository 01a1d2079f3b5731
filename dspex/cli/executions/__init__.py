"""Commands on executions and batches."""
