"""Celery: messages in, and control of the worker."""
