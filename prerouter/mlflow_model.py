"""What `mlflow models serve` and batch scoring run: a model folder behind MLflow's pyfunc ("models from code").

`track` logs this file beside the folder as it stands. MLflow runs it, where prerouter is installed; nothing imports it.
Nothing is sent to Claude: what the local stages leave open gets the default label, with decided_by "default".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from prerouter import PreRouter, Settings
from prerouter.errors import InvalidRequest
from prerouter.routing import typed_body

if TYPE_CHECKING:
    from pandas import DataFrame  # type: ignore[import-untyped]

KEYS = ("label", "tier", "model", "decided_by", "stage", "reason", "confidence", "probabilities")


class LocalDecisions(PythonModel):
    """One column in, `text`: a request, or a Messages body as JSON. One Decision out for each row."""

    def load_context(self, context):  # type: ignore[no-untyped-def]  # MLflow reads type hints as a schema
        """Load the model folder among the artefacts; settings are the defaults, wherever it is served."""
        self.router = PreRouter.load(context.artifacts["model_folder"], settings=Settings())
        self.router.local.warm()

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """A DataFrame with a column for each of KEYS. Raises InvalidRequest, naming the row."""
        return self._decided([_body(text, row) for row, text in enumerate(model_input["text"])])

    def _decided(self, bodies: list[Any]) -> DataFrame:
        from pandas import DataFrame

        rows = [decision.to_json() for decision in self.router.decide_many(bodies)]
        return DataFrame([{key: row[key] for key in KEYS} for row in rows], columns=list(KEYS), dtype=object)


def _body(text: Any, row: int) -> Any:
    if not isinstance(text, str):
        raise InvalidRequest("`text` must be text", where=f"row {row}", next_step="pass a string in each row")
    return typed_body(text)


set_model(LocalDecisions())
