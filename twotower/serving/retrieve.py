"""Print the best items after one history.

twotower retrieve BUNDLE [--strict] [--explain] [--objective=EVENT_TYPE] ITEM_ID [ITEM_ID ...]
"""

import sys
from collections.abc import Sequence

import numpy as np

from twotower.core.errors import nearest, printing_user_errors
from twotower.serving.http_request import read_json_text
from twotower.serving.retriever import Retriever

STRICT, EXPLAIN, OBJECTIVE = "--strict", "--explain", "--objective="


@printing_user_errors
def main(arguments: Sequence[str]) -> int:
    """Print recommendations for one history; returns 0, or 2 for a mistake that the user can correct."""
    words = [word for word in arguments if not word.startswith("--")]
    options = [word for word in arguments if word.startswith("--") and word not in (STRICT, EXPLAIN)]
    asked = [word.removeprefix(OBJECTIVE) for word in options if word.startswith(OBJECTIVE)]
    for word in options:
        if not word.startswith(OBJECTIVE):
            hint = nearest(word, [STRICT, EXPLAIN, OBJECTIVE])
            print(f"{word.partition('=')[0]} is no option{hint}", file=sys.stderr)
    if len(words) < 2 or len(asked) < len(options):
        usage = f"[{STRICT}] [{EXPLAIN}] [{OBJECTIVE}TYPE]"
        print(f"usage: twotower retrieve BUNDLE {usage} ITEM_ID [ITEM_ID ...]   (oldest first)")
        return 2
    retriever = Retriever.load(words[0], strict=STRICT in arguments)
    history = words[1:]
    text = asked[0] if asked else None
    objective = read_json_text(text, OBJECTIVE) if text and text.startswith("{") else text
    (ids,), (scores,), *_ = retriever.recommend([history], k=10, objective=objective)
    if np.isnan(scores[0]):
        print("no item of the history is in the catalogue; the most popular items:")
    width = max(7, *(len(str(item)) for item in ids))
    reasons = [""] * len(ids)
    if explained := EXPLAIN in arguments and not np.isnan(scores[0]):
        (shares,) = retriever.explain([history], [ids], objective=objective)
        pairs = ([(event, part) for event, part in zip(history, row, strict=True) if part] for row in shares)
        reasons = ["  " + ", ".join(f"{event} {part:+.4f}" for event, part in row) for row in pairs]
    print(f"rank  {'item_id':<{width}}  score{'   of it because of each event' if explained else ''}")
    for rank, (item, score, reason) in enumerate(zip(ids, scores, reasons, strict=True), start=1):
        print(f"{rank:>4}  {item!s:<{width}}  {'-' if np.isnan(score) else f'{score:.4f}'}{reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
