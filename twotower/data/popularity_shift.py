"""How the popularity of items has changed lately, for training to foresee. Shapes: E events, V items."""

import numpy as np

from twotower.core.arrays import Floats
from twotower.core.schema import Prepared

NEWEST = 0.1  # share of the events that training learns from; what "lately" is
SMOOTHING = 10  # events of an item that count as much as what has been measured
SAMPLE = 1 << 20  # timestamps of which the quantile is taken
EVENTS_AT_ONCE = 1 << 22  # bounds memory


def popularity_shift(prepared: Prepared, include_validation: bool, strength: float) -> Floats:
    """Return [V + 1] float32 strength * log(an item's popularity lately / its popularity in all training events).

    Taken from the logits in training, as logQ is, it makes scores fit the popularity of the days to come: a softmax's
    scores hold the log of the item's share of the targets, and the shares of training are a mean over a long time
    (correction of a prior: Saerens et al. 2002; in logits: Menon et al. 2021, arXiv:2007.07314). Lately is the time of
    the newest tenth of the events. Few events say little: SMOOTHING events as expected are added on both sides.
    Where each session's last event is the test, at whatever time, there is no shift.

    Args:
        prepared: the data.
        include_validation: the model is trained on the validation events, too.
        strength: from 0, no shift, to 1, as if nothing but the newest popularity counted.
    """
    in_all, lately = (np.zeros(prepared.num_items + 1) for _ in range(2))
    if strength == 0 or prepared.manifest.get("split", {}).get("kind") == "leave_one_out":
        return in_all.astype(np.float32)
    is_training = prepared.training_mask(include_validation)
    sampled = slice(None, None, 1 + len(is_training) // SAMPLE)
    times = np.asarray(prepared.timestamp[sampled])[is_training[sampled]]
    if len(times) == 0:
        return in_all.astype(np.float32)
    begin = np.quantile(times, 1 - NEWEST)
    for start in range(0, len(is_training), EVENTS_AT_ONCE):
        part = slice(start, start + EVENTS_AT_ONCE)
        kept = is_training[part]
        item = np.asarray(prepared.item_index[part])[kept]
        in_all += np.bincount(item, minlength=len(in_all))
        lately += np.bincount(item[np.asarray(prepared.timestamp[part])[kept] >= begin], minlength=len(in_all))
    share = lately.sum() / in_all.sum()
    change: Floats = np.log((lately + SMOOTHING * share) / (share * (in_all + SMOOTHING)), dtype=np.float32)
    return np.float32(strength) * change
