"""K-means over user vectors, with clusters of a least size.

Shapes: N vectors, S of them a sample, C centroids, D embedding dim.
"""

from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

SAMPLE = 2**16  # vectors that the centroids are learnt from, at most
VECTORS = 2**16  # of which distances are computed at once
ITERATIONS, STARTS = 25, 5

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


def centroids_of(sample: Floats, number: int, cosine: bool, seed: int) -> Floats:
    """[C, D] of the best of STARTS runs of k-means (Lloyd 1982).

    C is `number`, or how many vectors there are that differ by more than rounding.

    Args:
        sample: [S, D].
        number: of clusters.
        cosine: spherical k-means (Dhillon & Modha 2001): vectors and centroids have length one.
        seed: of the starts.
    """
    different = len(np.unique(np.round(sample, 5), axis=0))
    kmeans = faiss.Kmeans(
        sample.shape[1],
        min(number, different),
        niter=ITERATIONS,
        nredo=STARTS,
        spherical=cosine,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(sample),
    )
    kmeans.train(np.ascontiguousarray(sample, dtype=np.float32))
    return np.array(kmeans.centroids, dtype=np.float32)


def distances(vectors: Floats, centroids: Floats, cosine: bool) -> Floats:
    """[N, C] one minus the cosine, or Euclidean."""
    if cosine:
        similarity: Floats = vectors @ centroids.T
        return 1 - similarity
    users, centres = vectors.astype(np.float64), centroids.astype(np.float64)  # squares of near points cancel
    squared = np.square(users).sum(1)[:, None] - 2 * users @ centres.T + np.square(centres).sum(1)
    away: Floats = np.sqrt(np.maximum(squared, 0)).astype(np.float32)
    return away


def nearest_centroid(vectors: Floats, centroids: Floats, cosine: bool) -> tuple[Ints, Floats]:
    """[N] which centroid is nearest, of equal ones the first, and [N] how far it is."""
    place, distance = np.empty(len(vectors), dtype=np.int64), np.empty(len(vectors), dtype=np.float32)
    for start in range(0, len(vectors), VECTORS):
        part = slice(start, start + VECTORS)
        away = distances(vectors[part], centroids, cosine)
        place[part], distance[part] = away.argmin(axis=1), away.min(axis=1)
    return place, distance


def large_clusters(vectors: Floats, centroids: Floats, cosine: bool, min_size: int) -> tuple[Floats, Ints, Floats]:
    """Clusters of `min_size` vectors and more, the largest first.

    As long as one is smaller, the smallest is given up, and each of its vectors goes to the nearest centroid that is
    left; so each vector is with the nearest of the centroids that remain. With `min_size` <= N one always does.

    Returns:
        [C, D] the centroids that are left, [N] whose is nearest, and [N] how far it is.
    """
    place, distance = nearest_centroid(vectors, centroids, cosine)
    size = np.bincount(place, minlength=len(centroids))
    kept = np.arange(len(centroids))
    while len(kept) > 1 and size[kept].min() < max(1, min_size):
        given_up = kept[size[kept].argmin()]
        kept = kept[kept != given_up]
        lost = np.flatnonzero(place == given_up)
        to, distance[lost] = nearest_centroid(vectors[lost], centroids[kept], cosine)
        place[lost] = kept[to]
        size = np.bincount(place, minlength=len(centroids))
    order = kept[np.argsort(-size[kept], kind="stable")]
    new = np.zeros(len(centroids), dtype=np.int64)
    new[order] = np.arange(len(order))
    return centroids[order], new[place], distance
