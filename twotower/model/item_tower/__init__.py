"""Item towers: item_index in, one vector out; PAD is the zero vector.

An item tower is a torch module with an attribute `num_items`, a forward from [...] item_index to [..., D] vectors and
a method `begin_training(target_counts)`, which is called once before training.
"""
