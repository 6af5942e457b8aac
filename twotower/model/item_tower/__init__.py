"""Item towers: item_index in, one vector out; PAD is the zero vector.

An item tower is a torch module with an attribute `num_items`, a forward from [...] item_index to [..., D] vectors and
a method `begin_training(target_counts)`, which is called once before training.
"""

from twotower.model.item_tower.features import FeatureItemTower
from twotower.model.item_tower.id import IdItemTower

__all__ = ["FeatureItemTower", "IdItemTower"]  # where configurations of version 0.1 name them
