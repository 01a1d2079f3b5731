"""How a program calls: models by their routes, tools, and other programs."""
