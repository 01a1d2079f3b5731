"""JSON Schemas of signatures, and their dialects for providers."""
