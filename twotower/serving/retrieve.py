"""Print the best items after one history.

twotower retrieve BUNDLE [--strict] ITEM_ID [ITEM_ID ...]
"""

import sys

import numpy as np

from twotower.core.errors import UserError
from twotower.serving.catalogue import ItemId
from twotower.serving.retriever import Retriever

STRICT = "--strict"


def main(arguments: list[str]) -> int:
    """Print recommendations for one history; returns 0, or 2 for a mistake that the user can correct."""
    words = [word for word in arguments if word != STRICT]
    if len(words) < 2:
        print(f"usage: twotower retrieve BUNDLE [{STRICT}] ITEM_ID [ITEM_ID ...]   (oldest first)")
        return 2
    try:
        retriever = Retriever.load(words[0], strict=STRICT in arguments)
        history = [_parse(text, retriever.id_type) for text in words[1:]]
        (ids,), (scores,) = retriever.recommend([history], k=10)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if np.isnan(scores[0]):
        print("no item of the history is in the catalogue; the most popular items:")
    width = max(7, *(len(str(item)) for item in ids))
    print(f"rank  {'item_id':<{width}}  score")
    for rank, (item, score) in enumerate(zip(ids, scores, strict=True), start=1):
        print(f"{rank:>4}  {item!s:<{width}}  {'-' if np.isnan(score) else f'{score:.4f}'}")
    return 0


def _parse(text: str, id_type: type[int] | type[str]) -> ItemId:
    try:
        return id_type(text)
    except ValueError:
        raise UserError(f"{text!r} is not an item id: the ids of this catalogue are integers") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
