"""Load tests of a deployment, and its bottlenecks."""
