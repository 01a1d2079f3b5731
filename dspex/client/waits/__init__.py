"""What executions wait for, as clients see it: decisions about calls, and bundles at providers."""
