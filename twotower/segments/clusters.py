"""K-means over user vectors, with a minimum size of clusters.

Shapes: N vectors, S of them a sample, C centroids, D embedding dim.
"""

from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

SAMPLE = 2**16  # vectors that k-means runs on, at most
VECTORS = 2**16  # whose distances are computed at once
ITERATIONS, STARTS = 25, 5

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


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


def distances(vectors: Floats, centroids: Floats, cosine: bool) -> Floats:
    """Return [N, C] distances: one minus the cosine, or Euclidean."""
    if cosine:
        similarity: Floats = vectors @ centroids.T
        return 1 - similarity
    users, centres = vectors.astype(np.float64), centroids.astype(np.float64)  # squares of close points cancel
    squared = np.square(users).sum(1)[:, None] - 2 * users @ centres.T + np.square(centres).sum(1)
    euclidean: Floats = np.sqrt(np.maximum(squared, 0)).astype(np.float32)
    return euclidean


def nearest_centroid(vectors: Floats, centroids: Floats, cosine: bool) -> tuple[Ints, Floats]:
    """Return [N] the index of the nearest centroid, of equal ones the first, and [N] its distance."""
    place, distance = np.empty(len(vectors), dtype=np.int64), np.empty(len(vectors), dtype=np.float32)
    for start in range(0, len(vectors), VECTORS):
        part = slice(start, start + VECTORS)
        of_part = distances(vectors[part], centroids, cosine)
        place[part], distance[part] = of_part.argmin(axis=1), of_part.min(axis=1)
    return place, distance


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
