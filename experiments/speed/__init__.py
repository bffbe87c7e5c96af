"""What things cost, as ratios of two ways timed in one run."""
