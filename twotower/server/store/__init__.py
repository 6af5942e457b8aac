"""Stores of user events: what each user has done last, shared by all workers of a server."""
