"""Load on a deployment, and where it is bound."""
