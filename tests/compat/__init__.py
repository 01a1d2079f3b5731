"""DSPy programs of every kind, run by plain DSPy and by DSPex against the same model server, and compared.

``make compat`` runs all of them both ways and prints the table.
"""
