"""How programs are scored, called from other code, and optimised, through DSPy."""
