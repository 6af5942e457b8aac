"""Two-tower retrieval: from a shop's event logs to item vectors, an index and answers."""
