"""Probability densities on the sphere: their codes, transforms, base measures and log Z."""
