"""DSPex: durable, distributed execution of DSPy programs."""
