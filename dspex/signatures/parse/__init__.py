"""Parsers for the source forms of signatures: the native language, DSPy strings, classes."""
