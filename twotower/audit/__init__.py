"""Looks at a prepared directory: what would spoil a model or its figures, and what the data are like."""
