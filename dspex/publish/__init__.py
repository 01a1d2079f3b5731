"""Publishing: messages to the workers through Redis."""
