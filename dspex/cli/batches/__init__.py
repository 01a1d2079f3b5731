"""``dspex batch`` and ``dspex batches``: a program for every row of a file, and the batches of a deployment."""
