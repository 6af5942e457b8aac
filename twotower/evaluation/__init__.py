"""How well a ranking of the whole catalogue finds the next item."""
