"""Tables at the client: frames and examples as rows of a submit, and the executions of a batch as a table."""
