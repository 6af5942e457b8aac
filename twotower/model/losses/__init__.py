"""Losses: functions of Scores that give each position's cost, one a file."""
