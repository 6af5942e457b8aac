"""K-means over user vectors, with a minimum size of clusters.

Shapes: N vectors, S of them a sample, C centroids, D embedding dim.
"""

import faiss
import numpy as np
import numpy.typing as npt
from sklearn.metrics import pairwise_distances_argmin_min

SAMPLE = 2**16  # vectors that k-means runs on, at most
ITERATIONS, STARTS = 25, 5

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def centroids_of(sample: Floats, number: int, cosine: bool, seed: int) -> Floats:
    """Return [C, D] centroids of the best of STARTS runs of k-means (Lloyd 1982).

    C is `number`, or the number of vectors that differ by more than rounding if that is less.

    Args:
        sample: [S, D].
        number: of clusters.
        cosine: spherical k-means (Dhillon & Modha 2001): vectors and centroids have length one.
        seed: of the starts.
    """
    distinct = len(np.unique(np.round(sample, 5), axis=0))
    kmeans = faiss.Kmeans(
        sample.shape[1],
        min(number, distinct),
        niter=ITERATIONS,
        nredo=STARTS,
        spherical=cosine,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(sample),
    )
    kmeans.train(np.ascontiguousarray(sample, dtype=np.float32))
    return np.array(kmeans.centroids, dtype=np.float32)


def nearest_centroid(vectors: Floats, centroids: Floats, cosine: bool) -> tuple[Ints, Floats]:
    """Return [N] the index of the nearest centroid, of equal ones the first, and [N] its distance."""
    metric = "cosine" if cosine else "euclidean"
    place, distance = pairwise_distances_argmin_min(vectors, centroids, metric=metric)
    return place.astype(np.int64), distance.astype(np.float32)


def large_clusters(vectors: Floats, centroids: Floats, cosine: bool, min_size: int) -> tuple[Floats, Ints, Floats]:
    """Return clusters of `min_size` vectors or more, the largest first.

    While a cluster is smaller, the smallest is dropped, and each of its vectors goes to the nearest remaining centroid;
    so each vector is in the cluster of the nearest remaining centroid. With `min_size` <= N at least one remains.

    Returns:
        [C, D] the remaining centroids, [N] the index of the nearest, and [N] its distance.
    """
    place, distance = nearest_centroid(vectors, centroids, cosine)
    size = np.bincount(place, minlength=len(centroids))
    kept = np.arange(len(centroids))
    while len(kept) > 1 and size[kept].min() < max(1, min_size):
        dropped = kept[size[kept].argmin()]
        kept = kept[kept != dropped]
        lost = np.flatnonzero(place == dropped)
        to, distance[lost] = nearest_centroid(vectors[lost], centroids[kept], cosine)
        place[lost] = kept[to]
        size = np.bincount(place, minlength=len(centroids))
    order = kept[np.argsort(-size[kept], kind="stable")]
    new = np.zeros(len(centroids), dtype=np.int64)
    new[order] = np.arange(len(order))
    return centroids[order], new[place], distance
