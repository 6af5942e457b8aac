"""The MLflow model of a bundle: it answers as the retriever does, stands alone, and refuses what it can't answer."""

import importlib
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import hostile_requests as hostile
import mlflow
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from mlflow.exceptions import MlflowException
from model_bundle import write_shop_bundle

from twotower.serving.http_request import PARAMS
from twotower.serving.retriever import Retriever
from twotower.tracking.registry import CODE, save_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns of its own code
    from mlflow.pyfunc import scoring_server

    from twotower.tracking.pyfunc_model import guard

ROOT = Path(__file__).parents[2]
Ask = Callable[..., tuple[int, Any]]


def benchmark(name: str) -> ModuleType:
    """A module of experiments/benchmarks."""
    folder = str(ROOT / "experiments" / "benchmarks")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop_bundle(tmp_path_factory.mktemp("bundle") / "shop", str)


@pytest.fixture(scope="module")
def model(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model"
    save_model(bundle, path)
    return path


def server_of(model: Path) -> Ask:
    """MLflow's server without HTTP, guarded as it is in its own process."""
    loaded = mlflow.pyfunc.load_model(str(model))
    module = ModuleType("server")
    module.invocations = scoring_server.invocations  # type: ignore[attr-defined]
    module.InvocationsResponse = scoring_server.InvocationsResponse  # type: ignore[attr-defined]
    guard(module)

    def ask(body: Any, content_type: str | None = "application/json") -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            reply = module.invocations(data, content_type, loaded, loaded.metadata.get_input_schema())
            return reply.status, reply.response
        except MlflowException as error:
            return error.get_http_status_code(), error.serialize_as_json()

    return ask


@pytest.fixture(scope="module")
def ask(model: Path) -> Ask:
    return server_of(model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [str, int])
def test_it_answers_as_the_retriever_does(tmp_path: Path, kind: type) -> None:
    bundle = write_shop_bundle(tmp_path / "bundle", kind)
    save_model(bundle, tmp_path / "model")
    retriever, ask = Retriever.load(bundle), server_of(tmp_path / "model")
    ids = retriever.bundle.item_ids.to_pylist()
    histories = [[ids[3], ids[5]], [{"item_id": ids[7]}], [], [kind(9999)]]
    wishes: list[dict[str, Any]] = [
        {},
        {"k": 3},
        {"k": 5, "exclude_seen": True},
        {"filters": {"brand": ["A", "B"], "price": {"max": 60}}},
        {"include": ids[:9], "exclude": ids[:2]},
        {"exclude": [ids[:2], [], ids[5:30], [kind(1)]]},
        {"include": []},
        {"max_per": {"brand": 2}},
        {"exploration": 0.5, "seed": 3},
        {"context": {"page": "cart"}},
    ]
    for wish in wishes:
        scalars = ("k", "exclude_seen", "exploration", "seed")
        params = {name: value if name in scalars else json.dumps(value) for name, value in wish.items()}
        status, body = ask({"inputs": histories, "params": params})
        assert status == 200, body
        answers = json.loads(body)["predictions"]
        expected = retriever.recommend(histories, **{"k": PARAMS["k"], **wish})
        assert [answer["ids"] for answer in answers] == expected.ids
        for answer, scores in zip(answers, expected.scores, strict=True):
            found = np.array([np.nan if s is None else s for s in answer["scores"]], dtype=np.float32)
            np.testing.assert_array_equal(found, scores[: len(answer["ids"])])
    assert ask({"inputs": []}) == (200, '{"predictions": []}')
    random = [ask({"inputs": histories[:1], "params": {"k": 4, "exploration": 1.0}}) for _ in range(8)]
    assert len({body for _, body in random}) > 1  # no seed: another one each time


@pytest.mark.slow
def test_it_declares_its_parameters_and_needs_no_torch(model: Path, bundle: Path) -> None:
    signature = mlflow.models.get_model_info(str(model)).signature
    assert signature is not None and signature.params is not None
    assert {spec.name: spec.default for spec in signature.params} == PARAMS
    names = [
        "k",
        "exclude_seen",
        "filters",
        "include",
        "exclude",
        "max_per",
        "exploration",
        "seed",
        "context",
        "objective",
        "timestamp",
    ]
    kinds = ["long", "boolean", "string", "string", "string", "string", "double", "long", "string", "string", "string"]
    assert [(spec.name, spec.dtype.name) for spec in signature.params] == list(zip(names, kinds, strict=True))
    assert {"ids", "scores"} <= set(json.dumps(signature.outputs.to_dict()).replace('"', " ").split())
    needed = (model / "requirements.txt").read_text().split()
    assert {line.split("==")[0] for line in needed} == {"mlflow", "numpy", "faiss-cpu", "onnxruntime", "pyarrow"}
    assert all("==" in line for line in needed)
    example = json.loads((model / "serving_input_example.json").read_text())
    assert example["params"] == PARAMS and len(example["inputs"][0]) == 2
    kept = (
        model
        / yaml.safe_load((model / "MLmodel").read_text())["flavors"]["python_function"]["artifacts"]["bundle"]["path"]
    )
    assert {file.name for file in kept.iterdir()} == {file.name for file in bundle.iterdir()}
    assert not list(model.rglob("*.pkl"))


@pytest.mark.slow
def test_it_stands_alone(model: Path, tmp_path: Path) -> None:
    code = (
        "import json, sys, mlflow; model = mlflow.pyfunc.load_model(sys.argv[1]);"
        "answers = model.predict([['103', '105']], params={'k': 2}); import twotower;"
        "heavy = {'torch', 'hydra', 'pytorch_lightning', 'matplotlib', 'optuna'} & sys.modules.keys();"
        "print(json.dumps([twotower.__file__, sorted(heavy), answers[0].ids]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(model)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    package, heavy, ids = json.loads(done.stdout.splitlines()[-1])
    assert Path(package).is_relative_to(model) and heavy == [] and len(ids) == 2
    parts = {path.stem for path in (model / "code" / "twotower").iterdir() if path.stem != "__pycache__"}
    assert parts == {"__init__", *CODE}


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ({"inputs": [["103"]], "params": {"kk": 3}}, 400, "params has 'kk'; it can have k, .*did you mean 'k'"),
        ({"inputs": [["103"]], "k": 3}, 400, "the keys .*'k'.*; expected .*params"),
        ({"inputs": ["103"]}, 400, "inputs is .'103'.; expected a list of histories"),
        ({"dataframe_records": [{"history": ["103"]}]}, 400, 'expected {"inputs": '),
        ({"inputs": [[True]]}, 400, "an item id is True"),
        ({"inputs": [["103"]], "params": {"k": 1001}}, 400, "k is 1001; expected an integer from 1 to 1,000"),
        ({"inputs": [["103"]], "params": {"k": True}}, 400, "k = True; expected a value like 20"),
        ({"inputs": [["103"]], "params": {"filters": {"brand": "A"}}}, 400, "filters = .*; expected a text of JSON"),
        ({"inputs": [["103"]], "params": {"filters": '{"brnd": "A"}'}}, 400, "did you mean 'brand'"),
        ({"inputs": [["103"]], "params": {"filters": "{"}}, 400, "filters is not valid JSON"),
        ({"inputs": [["103"]], "params": {"include": "[true]"}}, 400, "include is .true.; expected a JSON list"),
        ({"inputs": [["103"]], "params": {"exclude": '[["103"], "105"]'}}, 400, "exclude is .*; expected a JSON list"),
        ({"inputs": [["103"]], "params": {"exclude": "[[true]]"}}, 400, "exclude is .*; expected a JSON list"),
        (
            {"inputs": [["103"]], "params": {"exclude": '[["103"], []]'}},
            400,
            "one such list for each of the 1 histories",
        ),
        ({"inputs": [["103"]], "params": {"seed": -2}}, 400, "seed is -2"),
        ({"inputs": [["a"] * 50_001]}, 400, "1 histories and 50,001 events; at most 200 and 50,000"),
        ({"inputs": [["a"]] * 201}, 400, "201 histories and 201 events; at most 200 and 50,000"),
        ({"inputs": [["a"]] * 21, "params": {"k": 1000}}, 400, "21 times 1,000 results; at most 20,000"),
        ({"inputs": [["a"]], "params": []}, 400, "params is ..; expected an object"),
        ({"inputs": [["x" * 2**20]]}, 413, "the body has 1,048,594 bytes; at most 1,048,576"),
        (b"[" * 100_000, 400, "the body is nested too deeply"),
        (b'{"inputs": [[NaN]]}', 400, "NaN is not a JSON number"),
        (b'{"inputs": [["\\ud800"]]}', 400, "half a character"),
        (b"\xff", 400, "the body is not UTF-8"),
    ],
)
def test_it_says_what_is_wrong(ask: Ask, request_: Any, status: int, message: str) -> None:
    found, body = ask(request_)
    assert found == status
    error = json.loads(body)
    assert set(error) <= {"error_code", "message", "sqlstate", "error_class"}
    with pytest.raises(ValueError, match=message):
        raise ValueError(error["message"])


@pytest.mark.parametrize("content_type", [None, "", "text/csv", "application/vnd.apache.parquet"])
def test_it_takes_json_only(ask: Ask, content_type: str | None) -> None:
    status, body = ask({"inputs": [["103"]]}, content_type)
    assert status == 415 and "expected application/json" in body


@pytest.mark.slow
def test_hostile_requests_are_refused_and_a_good_one_is_answered_after_them(tmp_path: Path) -> None:
    bundle = benchmark("made_bundle").make_bundle(tmp_path / "bundle", 300, queries=50, inputs=True)
    save_model(bundle, tmp_path / "model")
    ask = server_of(tmp_path / "model")
    before = ask(hostile.GOOD)
    assert before[0] == 200

    @settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
    @given(hostile.HOSTILE)
    def send(request: Any) -> None:
        status, body = ask(request.body, request.headers.get("Content-Type"))
        assert hostile.wrong_with(status, body.encode()) is None

    send()
    assert ask(hostile.GOOD) == before
