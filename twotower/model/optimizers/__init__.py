"""Optimisers: functions (model, total_steps, **settings) that return an optimiser and its schedule by step."""
