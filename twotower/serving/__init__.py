"""Answers from a bundle; imports nothing that trains."""
