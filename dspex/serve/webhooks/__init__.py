"""Webhooks: outcomes of executions and batches, posted to the addresses that their submits named."""
