"""What Jupyter shows: live progress of batches, and executions and batches as HTML."""
