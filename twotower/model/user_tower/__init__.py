"""User towers: item vectors of a history in, one user vector for each position out.

Every tower is causal: the vector at position t depends on the history up to and including t, and padding
stands on the right, so it reaches no real position. Shapes: B sessions, L history length, D embedding dim.
"""
