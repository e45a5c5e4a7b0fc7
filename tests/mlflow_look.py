"""Run as a script with a store's URI and an experiment's name: what is in the store, and what the served model says.

In a process of its own, since MLflow leaves connections, globals and warnings behind.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def look(store: str, experiment: str) -> dict[str, Any]:
    import mlflow

    mlflow.set_tracking_uri(store)
    client = mlflow.MlflowClient()
    at = client.get_experiment_by_name(experiment)
    assert at is not None
    versions = client.search_model_versions("name = 'prerouter'")
    return {
        "runs": [_run(client, run) for run in client.search_runs([at.experiment_id])],
        "artifact_location": at.artifact_location,
        "versions": {version.version: dict(version.tags) for version in versions},
        "aliases": {alias: str(v) for alias, v in client.get_registered_model("prerouter").aliases.items()},
        "served": _served("models:/prerouter/1"),
    }


def _run(client: Any, run: Any) -> dict[str, Any]:
    inputs = [item.dataset for item in run.inputs.dataset_inputs]
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "parent": run.data.tags.get("mlflow.parentRunId"),
        "id": run.info.run_id,
        "params": run.data.params,
        "metrics": run.data.metrics,
        "tags": run.data.tags,
        "files": sorted(_files(client, run.info.run_id)),
        "data": [[d.name, d.digest, d.profile] for d in inputs],
    }


def _files(client: Any, run_id: str, path: str | None = None) -> list[str]:
    found = client.list_artifacts(run_id, path)
    return [name for f in found for name in (_files(client, run_id, f.path) if f.is_dir else [f.path])]


def _served(uri: str) -> dict[str, Any]:
    """Batch scoring, and what `mlflow models serve` answers to a request on the wire."""
    import mlflow
    from fastapi.testclient import TestClient
    from mlflow.pyfunc import scoring_server
    from pandas import DataFrame

    model = mlflow.pyfunc.load_model(uri)
    body = json.dumps({"messages": [{"role": "user", "content": "the hard task"}]})
    batch = model.predict(DataFrame({"text": ["easy please", body, "do this"]}))
    with TestClient(scoring_server.init(model)) as client:
        answer = client.post("/invocations", json={"dataframe_records": [{"text": "easy please"}]})
        refused = client.post("/invocations", json={"dataframe_records": [{"words": "easy please"}]})
    return {
        "batch": json.loads(batch.to_json(orient="records")),
        "wire": answer.json(),
        "refused": refused.status_code,
        "signature": model.metadata.signature.to_dict(),
        "example": model.input_example.to_dict("records") if model.input_example is not None else None,
    }


if __name__ == "__main__":
    out = look(sys.argv[1], sys.argv[2])
    print(json.dumps(out))
