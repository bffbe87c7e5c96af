"""Evaluation: accuracy, calibration and likelihood of answers, with bootstrap intervals."""
