"""Polygons on the Earth, and the countries among them."""
