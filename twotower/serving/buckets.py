"""Buckets of an experiment: which variant a user gets, the same one at each request and on each machine."""

import hashlib
import math
from collections.abc import Mapping

from twotower.core.errors import UserError


def bucket_of(user: str, salt: str, shares: Mapping[str, float]) -> str:
    """Return the bucket of a user, by a hash: nothing is stored, and experiments of different salts are independent.

    Args:
        user: any key that stays the same during the experiment.
        salt: names the experiment; a new one draws all buckets anew.
        shares: bucket -> its share of the users; together 1. A bucket grows without moving its users where the shares
            of those before it stay.

    Raises:
        UserError: shares that are negative or do not add up to 1.

    >>> [bucket_of(f"user-{number}", "new-model", {"old": 0.5, "new": 0.5}) for number in range(4)]
    ['new', 'old', 'old', 'new']
    """
    if not all(share >= 0 for share in shares.values()) or not math.isclose(sum(shares.values()), 1.0, abs_tol=1e-9):
        raise UserError(f"shares is {dict(shares)}; expected shares from 0 on that add up to 1")
    digest = hashlib.sha256(f"{len(salt)}:{salt}:{user}".encode()).digest()
    point = int.from_bytes(digest[:8]) / 2**64
    bucket = ""
    for bucket, share in shares.items():
        point -= share
        if point < 0:
            return bucket
    return bucket  # rounding: the shares are a little less than 1
