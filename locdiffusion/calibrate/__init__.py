"""Calibration: temperatures, decoding radius and coverage, fitted on photos with known position."""
