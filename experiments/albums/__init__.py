"""Measures how well albums place photos: real trips, overhead trips and simulated evidence."""
