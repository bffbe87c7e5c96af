"""Galleries of known places, and the hybrid that answers with one of them."""
