"""Galleries of known places, and answers from a density and a gallery together."""
