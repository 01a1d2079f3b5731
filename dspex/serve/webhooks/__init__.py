"""Webhooks: outcomes of executions, posted to the addresses that their submits named."""
