"""Vectors in two dimensions, to be looked at. Shapes: N vectors, D embedding dim."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def principal_components(vectors: Array) -> tuple[Array, float]:
    """[N, 2] the two directions in which vectors [N, D] differ most, and which share of the variance they have."""
    centred = vectors.astype(np.float64) - vectors.mean(0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    place = np.zeros((len(vectors), 2))
    dims = min(2, len(singular))
    place[:, :dims] = left[:, :dims] * singular[:dims]
    total = np.square(singular).sum()
    return place, float(np.square(singular[:2]).sum() / total) if total else 1.0


def neighbourhoods(vectors: Array, seed: int) -> Array | None:
    """[N, 2] t-SNE of vectors [N, D] by cosine (van der Maaten & Hinton 2008); None for fewer than 50 of them.

    Near points were near before; distances between clusters mean nothing.
    """
    from sklearn.manifold import TSNE

    if len(vectors) < 50:
        return None
    place: Array = TSNE(metric="cosine", init="random", random_state=seed).fit_transform(vectors)
    return place
