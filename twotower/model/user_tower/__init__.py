"""User towers: event vectors [B, L, D] and times [B, L] in seconds in, a vector for each position [B, L, D] out.

Every tower is causal: the vector at position t depends on the history up to and including t, and padding is on the
right, so it reaches no real position. TwoTower adds the residual and the normalisation. A tower with `time_bias` also
has a method `asked`, which takes the moments that are asked about.
Shapes: B sessions, L history length, D embedding dim.
"""
