"""The DSPy adapter: programs as DSPy modules. Only this package imports dspy."""
