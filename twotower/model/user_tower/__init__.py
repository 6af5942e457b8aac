"""User towers: a history's events in, one vector for each position out.

Every tower is causal: the vector at position t depends on the history up to and including t, and padding
stands on the right, so it reaches no real position. TwoTower adds what is common to all of them, the residual and the
normalisation. Shapes: B sessions, L history length, D embedding dim.
"""
