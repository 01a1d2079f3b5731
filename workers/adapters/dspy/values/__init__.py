"""Values between the journal, the user's code and DSPy."""
