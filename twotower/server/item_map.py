"""A map of the catalogue: the two directions in which item vectors differ most. Shapes: V items, D embedding dim."""

from dataclasses import dataclass

import numpy as np

from twotower.core.arrays import Array, Floats, Ints

POINTS, SAMPLE = 4_000, 20_000  # items shown; vectors that the directions are computed from


@dataclass(frozen=True)
class ItemMap:
    """Principal components of the item vectors (PCA).

    >>> item_map = ItemMap.of(np.float32([[1, 0], [-1, 0], [0, 0]]), np.array([3, 2, 1]))
    >>> item_map.place(np.float32([[2, 0]])).round(2).tolist()
    [[2.0, 0.0]]
    """

    centre: Floats  # [D]
    axes: Array  # [D, 2]
    explained: tuple[float, float]  # shares of the variance
    rows: Ints  # of the items shown, the most frequent ones

    @classmethod
    def of(cls, vectors: Floats, train_count: Ints) -> "ItemMap":
        """Compute the map of vectors [V, D]."""
        step = max(1, len(vectors) // SAMPLE)
        sample = np.asarray(vectors[::step], dtype=np.float64)
        centre = sample.mean(axis=0)
        variance, axes = np.linalg.eigh(np.cov(sample - centre, rowvar=False).reshape(2 * [sample.shape[1]]))
        axes = axes[:, ::-1][:, :2]
        if axes.shape[1] < 2:
            axes = np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))
        axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(2)] < 0, -1, 1)  # the same at each start
        total = max(float(variance.sum()), 1e-12)
        shares = [*(variance[::-1] / total).tolist(), 0.0][:2]
        rows = np.sort(np.argsort(-train_count, kind="stable")[:POINTS])
        return cls(centre.astype(np.float32), axes, (shares[0], shares[1]), rows)

    def place(self, vectors: Floats) -> Array:
        """Return the places [n, 2] of vectors [n, D]."""
        places: Array = (vectors - self.centre) @ self.axes
        return places
