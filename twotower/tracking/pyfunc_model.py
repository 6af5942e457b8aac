"""The bundle as an MLflow model from code: MLflow keeps this file with the model and runs it where the model is loaded.

    mlflow.pyfunc.load_model("models:/NAME@candidate").predict([["sku-1", "sku-2"]], params={"k": 10})
    mlflow models serve --model-uri models:/NAME@candidate --env-manager local

serving.http_request describes requests over HTTP. Inside a Python process, serving.retriever does the same with less
overhead.
"""

import json
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext
from pydantic import BaseModel

from twotower.core.errors import UserError
from twotower.serving.http_request import PARAMS, is_item_id, is_single, read_json_text, refusal
from twotower.serving.retriever import Retriever

BUNDLE = "bundle"  # name of the artifact
SERVER, APP = "mlflow.pyfunc.scoring_server", "mlflow.pyfunc.scoring_server.app"


class Answer(BaseModel):
    """Items for one history, best first.

    >>> Answer(ids=["sku-1"], scores=[0.5]).model_dump()
    {'ids': ['sku-1'], 'scores': [0.5]}
    """

    ids: list[int | str]
    scores: list[float | None]  # None: the history has no known item, and these are the most popular ones


class RefusedRequest(MlflowException):  # type: ignore[misc]  # MLflow publishes no types
    """Status 400 with the message alone; MLflow would put the whole request before it.

    >>> RefusedRequest.invalid_parameter_value("k is -1").message
    'k is -1'
    """

    message = property(lambda self: self.args[0], lambda self, _: None)


class RetrieverModel(PythonModel):  # type: ignore[misc]  # as above
    """MLflow model that answers histories from a bundle."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the bundle; in MLflow's server, also check requests before MLflow parses them."""
        self._retriever = Retriever.load(context.artifacts[BUNDLE])
        if APP in sys.modules:
            guard(sys.modules[SERVER])

    def predict(
        self,
        context: PythonModelContext,
        model_input: list[list[int | str | dict[str, Any]]],
        params: dict[str, Any] | None = None,
    ) -> list[Answer]:
        """Answer each history of item ids or events, oldest first; see `Retriever.recommend`.

        Args:
            context: unused.
            model_input: the histories.
            params: see serving.http_request.

        Raises:
            RefusedRequest: the parameters or histories are invalid.
        """
        try:
            answers = self._retriever.recommend(model_input, **arguments({**PARAMS, **(params or {})}))
        except UserError as error:
            raise RefusedRequest.invalid_parameter_value(str(error)) from None
        rows = zip(answers.ids, answers.scores.tolist(), strict=True)
        return [
            Answer.model_construct(ids=ids, scores=[None if s != s else s for s in scores[: len(ids)]])
            for ids, scores in rows
        ]


def arguments(params: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Retriever.recommend` for a request's parameters; raises UserError for invalid ones."""
    json_texts = ("filters", "include", "exclude", "max_per", "context", "objective", "timestamp")
    texts = {name: params[name] for name in json_texts}
    read = {name: None if text is None else read_json_text(text, name) for name, text in texts.items()}
    for name in ("include", "exclude"):
        ids = read[name]
        by_history = name == "exclude" and isinstance(ids, list) and all(isinstance(each, list) for each in ids)
        if ids is not None and not all(_are_item_ids(each) for each in (ids if by_history else [ids])):
            raise UserError(f"{name} is {texts[name][:100]}; expected a JSON list of item ids, as in [1, 2]")
    context = read["context"]
    if context is not None and not (isinstance(context, dict) and all(map(is_single, context.values()))):
        raise UserError(f'context is {texts["context"][:100]}; expected a JSON object, as in {{"device": "phone"}}')
    seed = None if params["seed"] == PARAMS["seed"] else params["seed"]
    return {name: params[name] for name in ("k", "exclude_seen", "exploration")} | read | {"seed": seed}


def _are_item_ids(ids: Any) -> bool:
    return isinstance(ids, list) and all(map(is_item_id, ids))


def guard(server: ModuleType) -> None:
    """Let MLflow's scoring server refuse the requests that `refusal` names.

    The server has no hook for it, but looks `invocations` up in its module.
    """
    answer: Callable[..., Any] = server.invocations

    def checked(data: bytes, content_type: str | None, *rest: Any) -> Any:
        wrong = refusal(data, content_type)
        if wrong is None:
            return answer(data, content_type, *rest)
        body = json.dumps({"error_code": "BAD_REQUEST", "message": wrong.message})
        return server.InvocationsResponse(body, wrong.status, "application/json")

    server.invocations = checked  # type: ignore[attr-defined]


mlflow.models.set_model(RetrieverModel())
