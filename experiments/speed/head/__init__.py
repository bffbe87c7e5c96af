"""What the head costs, against the budgets: pairs of things timed in turns in one run.

    python -m experiments.speed.head

Absolute times change with the machine and its other work; a ratio of two things measured in turns
changes little. So every line is a ratio of medians, with the spread of the ratios of the turns.
"""
