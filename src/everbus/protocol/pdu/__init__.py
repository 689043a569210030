"""Protocol data units, one module a family, both directions in each."""
