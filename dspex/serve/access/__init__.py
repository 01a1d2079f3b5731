"""Who may do what: keys, users that a proxy names, and sessions of the console."""
