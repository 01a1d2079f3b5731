"""Values: validation, repair, encoding and examples."""
