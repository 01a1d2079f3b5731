"""From each form of source to fields: the native language, DSPy strings, classes."""
