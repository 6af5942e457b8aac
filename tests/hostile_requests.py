"""Requests that no server should answer: malformed, hostile and huge ones, made by hypothesis.

For a bundle with strings as ids, the columns `category` and `price`, and event inputs, as
experiments/benchmarks/made_bundle.py makes.
"""

import json
from typing import Any, NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

JSON_TYPE = {"Content-Type": "application/json"}
GOOD = {"inputs": [["sku-00000001", "sku-00000002"]], "params": {"k": 5}}


class Hostile(NamedTuple):
    """A request that must get a status from 400 to 499."""

    what: str
    body: bytes
    headers: dict[str, str] = JSON_TYPE

    def __repr__(self) -> str:
        return f"{self.what}: {self.body[:120]!r} ({len(self.body)} bytes, {self.headers})"


def wrong_with(status: int, body: bytes) -> str | None:
    """What is wrong with the answer to a hostile request; None: it is a refusal with a clear message."""
    text = body.decode(errors="replace")
    if not 400 <= status < 500:
        return f"status {status}: {text[:300]}"
    for sign in ("Traceback", "stack_trace", "unexpected error"):
        if sign in text:
            return f"the message has '{sign}': {text[:300]}"
    if not 10 <= len(text) <= 4000:
        return f"a message of {len(text)} characters: {text[:300]}"
    return None


def _request(what: str, content: Any) -> Hostile:
    return Hostile(what, json.dumps(content).encode())


def _with(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


def _params(**params: Any) -> dict[str, Any]:
    return _with(params=params)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def _is_no_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return True
    return False


BYTES = st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace"))
NO_JSON = BYTES.filter(_is_no_json)
CUT = st.integers(0, len(json.dumps(GOOD)) - 1).map(lambda end: json.dumps(GOOD).encode()[:end])
SHAPES = VALUES.filter(lambda value: not (isinstance(value, dict) and "inputs" in value))
KEYS = st.sampled_from(
    ["k", "dataframe_records", "dataframe_split", "instances", "messages", "prompt", "input", "Inputs", "", "\0", "é"]
)
NO_HISTORIES = VALUES.filter(lambda value: not isinstance(value, list)) | st.lists(
    SCALARS | st.dictionaries(st.text(max_size=3), SCALARS, max_size=2), min_size=1, max_size=3
)
NO_ID = st.none() | st.booleans() | st.floats(allow_nan=False) | st.lists(st.text())
NO_DEVICE = st.lists(SCALARS) | st.just({"a": {}})
NO_EVENT = st.one_of(
    st.none() | st.booleans() | st.floats(allow_nan=False),
    st.integers(min_value=2**63, max_value=2**80),
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.sampled_from(["item", "ITEM_ID", "id", "itemid"]), SCALARS, max_size=2),
    st.builds(lambda value: {"item_id": value}, NO_ID),
    st.builds(lambda value: {"item_id": "sku-00000001", "device": value}, NO_DEVICE),
    st.sampled_from(["yesterday", -5, 1.5, 2**70]).map(lambda time: {"item_id": "sku-00000001", "timestamp": time}),
    st.just({"item_id": "sku-00000001", "timestmp": 1_700_000_000_000}),
)


def _lines(text: str) -> list[str]:
    """Return a parameter value a line, written as in JSON's strings."""
    return text.strip().splitlines()


FILTERS = r"""
nonsense
[]
5
{"colour": "red"}
{"category": {"min": 1}}
{"price": {"min": NaN}}
{"price": {"min": 1e999}}
{"price": {"least": 1}}
{"price": {}}
{"price": "cheap"}
{"category": {"a": {"b": 1}}}
{"category": "\ud800"}
{"not": 5}
{"any": {}}
"""
LONG_FILTERS = [
    "",
    '{"not": ' * 20 + "{}" + "}" * 20,
    '{"not": ' * 100_000,
    "[" * 100_000,
    '{"any": [' + ",".join(['{"price": 1}'] * 200) + "]}",
    json.dumps({"category": ["x"] * 20_000}),
    '{"price": ' + "9" * 6000 + "}",
]
NUMBERS, LARGE = st.floats(allow_nan=False) | st.text(), st.integers(min_value=1001)
WRONG_PARAMS: dict[str, SearchStrategy[Any]] = {
    "k": st.integers(max_value=0) | LARGE | NUMBERS | st.booleans() | st.none(),
    "exclude_seen": st.integers() | st.text() | st.none() | st.lists(st.booleans()),
    "exploration": st.floats(min_value=1.01) | st.floats(max_value=-0.01) | st.text() | st.booleans() | st.none(),
    "seed": st.integers(max_value=-2) | st.integers(min_value=2**64) | NUMBERS,
    "filters": VALUES.filter(lambda value: not isinstance(value, str))
    | st.sampled_from([*_lines(FILTERS), *LONG_FILTERS]),
    "include": st.sampled_from(["", "5", "{}", '"sku-1"', "[null]", "[[1]]", "[1.5]", "[true]", "[" * 9999]),
    "exclude": st.sampled_from(["", "5", "{}", '"sku-1"', "[null]", "[{}]", "[NaN]", '["\\ud800"]']),
    "max_per": st.sampled_from(
        ['{"category": 0}', '{"price": 2}', '{"brand": 1}', "[]", "2", '{"category": "2"}', '{"": 1}']
    ),
    "objective": st.sampled_from(["", "5", "[]", "{}", '"view"', '{"view": 1}', '{"view": NaN}']),  # GOOD's has none
    "timestamp": st.sampled_from(["", "5", "[]", "{}", "true", '"2026"', "[1767225600000]", "NaN"]),  # nor this
    "context": st.sampled_from(
        ["[]", "5", '"phone"', '{"device": []}', '{"device": {"a": 1}}', '{"timestamp": "now"}', "{"]
    ),
}
UNKNOWN_PARAMS = st.text(max_size=12).filter(lambda name: name not in WRONG_PARAMS)
CONTENT_TYPES = """
text/csv
text/plain
application/vnd.apache.parquet
application/x-www-form-urlencoded
application/json; charset=latin-1
application/json; what=ever
multipart/form-data; boundary=x
ÿ/json
"""
TYPES = st.sampled_from([{}, *({"Content-Type": name} for name in ["", *_lines(CONTENT_TYPES)])])


def _ids(body: str) -> bytes:
    return b'{"inputs": [[' + body.encode() + b"]]}"


RAW = st.sampled_from(
    [
        Hostile("nothing", b""),
        Hostile("NaN", _ids("NaN")),
        Hostile("Infinity", _ids("-Infinity")),
        Hostile("overflow", _ids("1e999")),
        Hostile("NaN in params", b'{"inputs": [["a"]], "params": {"exploration": NaN}}'),
        Hostile("half a character", _ids('"\\ud800"')),
        Hostile("half a character as a key", b'{"inputs": [[{"item_id": "a", "\\udfff": 1}]]}'),
        Hostile("6000 digits", _ids("9" * 6000)),
        Hostile("UTF-16", json.dumps(GOOD).encode("utf-16")),
        Hostile("UTF-32", json.dumps(GOOD).encode("utf-32")),
        Hostile("Latin-1", '{"inputs": [["\u00e9"]]}'.encode("latin-1")),
        Hostile("BOM", b"\xef\xbb\xbf" + json.dumps(GOOD).encode()),
        Hostile("two of them", json.dumps(GOOD).encode() * 2),
        *(Hostile("deep", part * 100_000) for part in (b"[", b'{"a":', b'{"inputs": [')),
        *(Hostile(f"{depth} deep", _ids("[" * depth + "]" * depth)) for depth in (1, 20, 400, 900, 990)),
        *(Hostile(f"object {depth} deep", _ids('{"a":' * depth + "1" + "}" * depth)) for depth in (2, 400, 900)),
        Hostile("one of 10 MB", _ids('"' + "x" * 10_000_000 + '"')),
        Hostile("10 MB of blanks", json.dumps(GOOD).encode() + b" " * 10_000_000),
        Hostile("10 MB of brackets", b"[" * 10_000_000),
        Hostile("10 MB of noise", bytes(range(256)) * 40_000),
        Hostile("many events", _ids(",".join(['"a"'] * 150_000))),
        Hostile("many histories", b'{"inputs": [' + b",".join([b'["a"]'] * 5000) + b"]}"),
        Hostile("many empty histories", b'{"inputs": [' + b",".join([b"[]"] * 300_000) + b"]}"),
        _request("many params", _params(**{f"p{i}": i for i in range(50_000)})),
    ]
)

HOSTILE: SearchStrategy[Hostile] = st.one_of(
    NO_JSON.map(lambda body: Hostile("no JSON", body)),
    CUT.map(lambda body: Hostile("cut off", body)),
    SHAPES.map(lambda value: _request("another shape", value)),
    st.builds(lambda key, value: _request("unknown key", {**GOOD, key: value}), KEYS, VALUES),
    NO_HISTORIES.map(lambda value: _request("no histories", _with(inputs=value))),
    NO_EVENT.map(lambda event: _request("no event", _with(inputs=[["sku-00000001", event]]))),
    SCALARS.filter(lambda value: value is not None).map(
        lambda value: _request("params is no object", _with(params=value))
    ),
    st.builds(lambda name, value: _request("unknown parameter", _params(**{name: value})), UNKNOWN_PARAMS, VALUES),
    *(
        values.map(lambda value, name=name: _request(f"wrong {name}", _params(**{name: value})))
        for name, values in WRONG_PARAMS.items()
    ),
    TYPES.map(lambda headers: Hostile("content type", json.dumps(GOOD).encode(), headers)),
    RAW,
)
