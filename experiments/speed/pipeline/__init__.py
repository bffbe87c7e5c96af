"""What Beam costs: the geotag job against a plain loop over the same functions."""
