"""Losses: functions of Scores that return the loss of each position, one a file.

A loss is a function (scores, **settings) -> [P]. One that does not hold plain [P, N] logits declares its memory with
@memory_cost, so that the forecast before the first step is right.
"""
