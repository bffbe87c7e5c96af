"""How honest the probabilities of countries, regions and districts are."""
