"""Joins a catalogue of photos with the answers of an output."""
