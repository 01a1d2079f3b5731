"""The twelve requirements that DSPex was specified with, each a group of checks."""
