"""How much less an outcome is likely at a later place of a list, for the same item: estimated from exploration.

Exploration pushes the i-th best item down to a place that chance alone decides, and puts drawn items at places that
chance alone decides. So the outcomes of one source (the i-th best, or drawn) differ between places only by the place:

    P(outcome | source s at place p) = effect_p * relevance_s

which is the position-based model of clicks (Craswell et al. 2008), with experiments in place of eye tracking (Joachims
et al. 2017). Its maximum likelihood for Poisson counts is found by fitting places and sources in turn.

Shapes: S sources, P places, any leading dimensions.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
PRIOR = 1.0  # outcomes added to those of each place, as if its effect were 1: keeps a place without an outcome above 0
MOST_STEPS, PRECISION = 500, 1e-7


def place_effects(shown: Array, outcomes: Array) -> Array:
    """Return [..., P] the effect of each place, the mean weighted by outcomes being about 1; only ratios matter.

    >>> shown = np.array([[9000.0, 1000.0], [0.0, 9000.0]])  # the best item stood at place 2 now and then
    >>> effects = place_effects(shown, outcomes=np.array([[900.0, 50.0], [0.0, 90.0]]))
    >>> round(float(effects[1] / effects[0]), 2)
    0.5

    Args:
        shown: [..., S, P] how often an item of each source stood at each place.
        outcomes: [..., S, P] how many of them had an outcome.
    """
    by_source, by_place = outcomes.sum(axis=-1), outcomes.sum(axis=-2)
    effects = np.ones_like(by_place, dtype=np.float64)
    for _ in range(MOST_STEPS):
        expected = np.einsum("...sp,...p->...s", shown, effects)
        relevance = np.divide(by_source, expected, out=np.zeros_like(expected), where=expected > 0)
        updated = (by_place + PRIOR) / (np.einsum("...sp,...s->...p", shown, relevance) + PRIOR)
        change = np.abs(updated / effects - 1).max(initial=0.0)
        effects = updated
        if change < PRECISION:
            break
    return effects
