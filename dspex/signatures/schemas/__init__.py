"""JSON schemas of signatures, and what providers accept of them."""
