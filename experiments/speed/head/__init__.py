"""Benchmark of the head (network and decoder) against its budgets, timed in turns.

    python -m experiments.speed.head

Absolute times depend on the machine and its other work; the ratio of two things that are timed in
turns hardly does. So each line is a ratio of medians, with the spread of the ratios of the turns.
"""
