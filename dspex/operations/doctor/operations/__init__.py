"""What operating a deployment takes, each a group of checks."""
