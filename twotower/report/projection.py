"""Project vectors to two dimensions, for plots. Shapes: N vectors, D embedding dim."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FEWEST_FOR_TSNE = 50


def principal_components(vectors: Array) -> tuple[Array, float]:
    """Return [N, 2] the projection of vectors [N, D >= 2] on two principal components, and their share of variance."""
    from sklearn.decomposition import PCA

    if not np.ptp(vectors, axis=0).any():  # scikit-learn would divide by a variance of 0
        return np.zeros((len(vectors), 2)), 1.0
    pca = PCA(2, svd_solver="full").fit(vectors.astype(np.float64))
    return pca.transform(vectors.astype(np.float64)), float(pca.explained_variance_ratio_.sum())


def neighbourhoods(vectors: Array) -> Array | None:
    """Return [N, 2] t-SNE of vectors [N, D] by cosine (van der Maaten & Hinton 2008); None for too few of them.

    Near points were near before; distances between clusters mean nothing.
    """
    from sklearn.manifold import TSNE

    if len(vectors) < FEWEST_FOR_TSNE:
        return None
    place: Array = TSNE(metric="cosine", init="random", random_state=0).fit_transform(vectors)
    return place
