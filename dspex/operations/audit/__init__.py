"""Verifying and exporting the audit trails of the whole database."""
