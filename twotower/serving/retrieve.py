"""Print the best items after one history.

twotower retrieve BUNDLE [--strict] [--objective=EVENT_TYPE] ITEM_ID [ITEM_ID ...]
"""

import sys
from collections.abc import Sequence

import numpy as np

from twotower.core.errors import printing_user_errors
from twotower.serving.retriever import Retriever

STRICT, OBJECTIVE = "--strict", "--objective="


@printing_user_errors
def main(arguments: Sequence[str]) -> int:
    """Print recommendations for one history; returns 0, or 2 for a mistake that the user can correct."""
    words = [word for word in arguments if not word.startswith("--")]
    options = [word for word in arguments if word.startswith("--") and word != STRICT]
    asked = [word.removeprefix(OBJECTIVE) for word in options if word.startswith(OBJECTIVE)]
    if len(words) < 2 or len(asked) < len(options):
        print(f"usage: twotower retrieve BUNDLE [{STRICT}] [{OBJECTIVE}TYPE] ITEM_ID [ITEM_ID ...]   (oldest first)")
        return 2
    retriever = Retriever.load(words[0], strict=STRICT in arguments)
    (ids,), (scores,) = retriever.recommend([words[1:]], k=10, objective=asked[0] if asked else None)
    if np.isnan(scores[0]):
        print("no item of the history is in the catalogue; the most popular items:")
    width = max(7, *(len(str(item)) for item in ids))
    print(f"rank  {'item_id':<{width}}  score")
    for rank, (item, score) in enumerate(zip(ids, scores, strict=True), start=1):
        print(f"{rank:>4}  {item!s:<{width}}  {'-' if np.isnan(score) else f'{score:.4f}'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
