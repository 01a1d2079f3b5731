"""Values: validation, encoding, coercion and examples."""
