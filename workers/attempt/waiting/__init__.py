"""Attempts that cannot go on without something from outside: leaving the program, and what it waits for."""
