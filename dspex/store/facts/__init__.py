"""Read-only questions about a deployment, each a function that returns a typed value; `dspex doctor` asks most."""
