"""The monitoring report: what happened within a period, and how it is shown."""
