"""What all calls of a client share: its connections, and the statements of submits."""
