"""The workloads, each a module with ``run(context) -> list[Figure]``."""
