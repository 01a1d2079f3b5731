"""``make bench``: how fast DSPex is, beside its peers, in one run."""
