"""Reading the text of model answers."""
