"""What executions are for besides their results, and what ends a rollout."""
