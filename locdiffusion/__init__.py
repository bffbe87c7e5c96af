"""LocDiffusion."""
