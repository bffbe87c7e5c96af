"""A Dataflow job that is simulated instead of run: its time, its stragglers, its cost."""
