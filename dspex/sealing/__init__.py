"""Sealing: encryption of secret fields."""
