"""Submitting: inputs are checked, limited and made ready to store, one by one and in bulk."""
