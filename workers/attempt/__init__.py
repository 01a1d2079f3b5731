"""One attempt: claim, host, validate, settle."""
