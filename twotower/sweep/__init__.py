"""Sweeps: many trials of different settings, which validation compares."""
