"""Simulation of a job on Google Dataflow: its duration, its stragglers, its cost."""
