"""Connections to models: providers, addresses, keys, HTTP."""
