"""Calls to language models: endpoints and their connections, the journaled engine, errors and cost."""
