"""Checks of a prepared directory for faults that would spoil a model or its evaluation."""
