"""A run's report: one page for people."""
