"""Towers, negatives, scoring and losses; plain torch modules and functions."""
