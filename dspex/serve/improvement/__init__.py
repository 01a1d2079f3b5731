"""Evaluations, optimisations and versions over HTTP and in the console."""
