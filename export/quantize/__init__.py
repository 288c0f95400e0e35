"""Smaller weights: formats, methods that find the codes, and the search that chooses widths."""
