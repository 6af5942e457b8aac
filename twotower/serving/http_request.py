"""Check a request to the MLflow model over HTTP before anything else reads it.

    {"inputs": [["sku-1", "sku-2"], [{"item_id": "sku-3", "event_type": "cart"}]],
     "params": {"k": 10, "exclude_seen": true, "filters": "{\\"category\\": \\"shoes\\"}"}}

`inputs` has the histories: item ids or events, oldest first. `params` are those of `Retriever.recommend`; MLflow
accepts no nested ones, so lists and objects are JSON texts. Limits keep one request from occupying the server; a
Retriever in one's own process has none. The checks are needed because MLflow's server ignores unknown keys and answers
some malformed bodies with status 500.
"""

import json
import reprlib
from typing import Any, NamedTuple

from twotower.core.errors import UserError, nearest
from twotower.core.schema import ITEM_ID

PARAMS: dict[str, Any] = {  # defaults, whose types a request's values must have
    "k": 20,
    "exclude_seen": False,
    "filters": "null",
    "include": "null",
    "exclude": "null",
    "max_per": "null",
    "exploration": 0.0,
    "seed": -1,  # a new one for every request
    "context": "null",
    "objective": "null",
    "timestamp": "null",
}
BODY = 2**20  # bytes
HISTORIES = 200
EVENTS = 50_000  # in all histories together
MOST_K = 1000
ANSWERS = 20_000  # in all together; with caps, each can take a tenth of a millisecond and more
JSON_TYPE = "application/json"
SHAPE = '{"inputs": [[item ids or events, oldest first], ...], "params": {...}}'


class Refusal(NamedTuple):
    """An HTTP status from 400 to 499, and the reason."""

    status: int
    message: str


def refusal(body: bytes, content_type: str | None) -> Refusal | None:
    """Return what is wrong with a request; None where nothing is, as far as can be told without the bundle."""
    if (content_type or "").partition(";")[0].strip().lower() != JSON_TYPE:
        return Refusal(415, f"the content type is {reprlib.repr(content_type)}; expected {JSON_TYPE}")
    if len(body) > BODY:
        return Refusal(413, f"the body has {len(body):,} bytes; at most {BODY:,} are accepted. Send fewer histories")
    try:
        request = read_json_text(body.decode(), "the body")
        if not isinstance(request, dict) or not {"inputs"} <= set(request) <= {"inputs", "params"}:
            keys = f"the keys {reprlib.repr(sorted(request))}" if isinstance(request, dict) else type(request).__name__
            raise UserError(f"the request has {keys}; expected {SHAPE}")
        _check_histories(request["inputs"])
        _check_params({} if request.get("params") is None else request["params"], len(request["inputs"]))
    except UnicodeDecodeError as error:
        return Refusal(400, f"the body is not UTF-8: {error.reason} at byte {error.start}")
    except UserError as error:
        return Refusal(400, str(error))
    return None


def read_json_text(text: str, name: str) -> Any:
    """Parse JSON; raises UserError for anything else, also for NaN, Infinity and lone surrogates."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        if "\\u" in text:  # can write half of a surrogate pair, which is no text
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise UserError(f"{name} is nested too deeply") from None
    except UnicodeEncodeError:
        raise UserError(f"{name} has a \\u escape that is half a character; expected Unicode text") from None
    except ValueError as error:  # malformed, or a number of thousands of digits
        raise UserError(f"{name} is not valid JSON: {str(error)[:200]}") from None
    return value


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def _check_histories(histories: Any) -> None:
    if not isinstance(histories, list) or not all(isinstance(history, list) for history in histories):
        raise UserError(f"inputs is {reprlib.repr(histories)}; expected a list of histories, each a list")
    events = sum(map(len, histories))
    if len(histories) > HISTORIES or events > EVENTS:
        raise UserError(
            f"the request has {len(histories):,} histories and {events:,} events; at most {HISTORIES:,} and "
            f"{EVENTS:,} are accepted"
        )
    for event in (event for history in histories for event in history):
        if isinstance(event, dict):
            if not all(is_single(value) for value in event.values()):
                raise UserError(f"an event is {reprlib.repr(event)}; expected single values, as a text or a number")
            event = event.get(ITEM_ID, ITEM_ID)  # the retriever refuses an event without item_id
        if not is_item_id(event):
            raise UserError(
                f"an item id is {reprlib.repr(event)}; expected a text or an integer of 64 bits, or an event "
                f'like {{"{ITEM_ID}": ...}}'
            )


def is_item_id(value: Any) -> bool:
    """Return whether a catalogue can have this id; true and 1.0, which Python takes for 1, it can't."""
    return type(value) is str or (type(value) is int and -(2**63) <= value < 2**63)


def is_single(value: Any) -> bool:
    """Return whether a value parsed from JSON is neither a list nor an object."""
    return not isinstance(value, dict | list)


def _check_params(params: Any, histories: int) -> None:
    if not isinstance(params, dict):
        raise UserError(f'params is {reprlib.repr(params)}; expected an object, as in {{"k": 10}}')
    for name, value in params.items():
        if name not in PARAMS:
            raise UserError(
                f"params has {reprlib.repr(name)}; it can have {', '.join(PARAMS)}{nearest(name[:100], PARAMS)}"
            )
        expected = type(PARAMS[name])
        if type(value) is not expected and not (expected is float and type(value) is int):
            what = "a text of JSON" if expected is str else f"a value like {json.dumps(PARAMS[name])}"
            raise UserError(f"params has {name} = {reprlib.repr(value)}; expected {what}")
    k = params.get("k", PARAMS["k"])
    if not 1 <= k <= MOST_K:
        raise UserError(f"k is {reprlib.repr(k)}; expected an integer from 1 to {MOST_K:,}")
    if k * histories > ANSWERS:
        raise UserError(f"the request asks for {histories:,} times {k:,} results; at most {ANSWERS:,} are accepted")
