"""The types of the language and their constraints."""
