"""The direct adapter: one model call, without DSPy."""
