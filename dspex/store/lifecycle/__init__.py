"""The SQL of an execution, from submit to its outcome."""
