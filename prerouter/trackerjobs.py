"""The process that `tracker` starts: one job on standard input, one answer on standard output. It alone uses MLflow."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prerouter import modelcard, modelfolder, plots
from prerouter.modelfolder import FolderModel
from prerouter.runrecord import ID_TAG, RunRecord, run_record

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

FOLDER = "model_folder"  # where a logged model keeps the model folder, below `artifacts`
EXAMPLE = "Summarise in one sentence: the invoice is attached."
_UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # what MLflow says of an alias that is not there


def main() -> int:
    """Do the job; its answer is {"found": ...} or {"error": {"kind", "what"}}."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever MLflow and its plug-ins print is no answer
    json.dump(_answer(json.load(sys.stdin)), out)
    out.close()
    return 0


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        import mlflow
        from mlflow.exceptions import MlflowException
    except ImportError:
        return {"error": {"kind": "missing", "what": "mlflow"}}
    mlflow.set_tracking_uri(request["store"])
    try:
        return {"found": JOBS[request["job"]](mlflow.MlflowClient(), request.get("artifacts"), **request["arguments"])}
    except MlflowException as error:
        kind = "unknown" if request["job"] == "fetch" and error.error_code in _UNKNOWN else "refused"
        return {"error": {"kind": kind, "what": error.message}}
    except Exception as error:
        return {"error": {"kind": "refused", "what": f"{type(error).__name__}: {error}"}}


def log(
    client: MlflowClient, artifacts: str | None, *, folder: str, experiment: str, name: str, files: list[str]
) -> dict[str, Any]:
    """Log a model folder as a run and register it as a version of `name`, unless that was done before.

    files: further artefacts (reports, plots). A run that was cut short is replaced.
    """
    import mlflow

    model = modelfolder.load(Path(folder))
    record = run_record(model)
    at = _experiment(client, os.environ.get("MLFLOW_EXPERIMENT_NAME") or experiment, artifacts)
    for run in client.search_runs([at], f"tags.`{ID_TAG}` = '{model.model_folder_id}'"):
        version = _version_of(client, name, run)
        if run.info.status == "FINISHED" and version:
            for file in files:
                client.log_artifact(run.info.run_id, file)
            return _found(run, version, already=True)
        client.delete_run(run.info.run_id)
    tags = dict(record.tags) | {"mlflow.source.name": "prerouter"}
    card = (Path(folder) / "README.md").read_text("utf-8")
    with mlflow.start_run(experiment_id=at, run_name=record.name, tags=tags, description=card) as run:
        _log_run(client, run.info.run_id, model, Path(folder), record, files)
        version = _register(client, model, Path(folder), record, name)
        for candidate in record.candidates:
            with mlflow.start_run(experiment_id=at, run_name=candidate.name, tags=dict(candidate.tags), nested=True):
                mlflow.log_params(dict(candidate.params))
                mlflow.log_metrics(dict(candidate.metrics))
    return _found(run, version, already=False)


def fetch(
    client: MlflowClient, artifacts: str | None, *, name: str, alias: str | None, version: str | None, to: str
) -> dict[str, Any]:
    """Download the model folder of a version to `to`/model_folder, unless the cache beside `to` has it.

    Only data is downloaded and nothing of it is read here: the caller verifies it.
    """
    import mlflow

    found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, str(version))
    known, cache = found.tags.get(ID_TAG), Path(to).parent
    answer = {"version": str(found.version), "model_folder_id": known}
    if known and known.isalnum() and (cache / known).is_dir():
        return answer | {"path": str(cache / known)}
    place = f"models:/{name}/{found.version}/artifacts/{FOLDER}"
    return answer | {"path": mlflow.artifacts.download_artifacts(artifact_uri=place, dst_path=to)}


def set_aliases(
    client: MlflowClient, artifacts: str | None, *, name: str, aliases: dict[str, str | None]
) -> dict[str, Any]:
    """Point each alias to the newest version with that model folder id; None takes it away. Answers who is missing."""
    missing = []
    for alias, model_folder_id in aliases.items():
        wanted = f"name = '{name}' and tags.`{ID_TAG}` = '{model_folder_id}'"
        versions = client.search_model_versions(wanted) if model_folder_id else []
        if versions:
            newest = max(versions, key=lambda version: int(version.version))
            client.set_registered_model_alias(name, alias, str(newest.version))
        elif model_folder_id:
            missing.append(model_folder_id)
    return {"missing": missing}


JOBS: dict[str, Callable[..., dict[str, Any]]] = {"log": log, "fetch": fetch, "set_aliases": set_aliases}


def _experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """The id of the experiment `name`, made when it is not there (which another process may do at the same time)."""
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except MlflowException:
            known = client.get_experiment_by_name(name)
            if known is None:
                raise
    if known.lifecycle_stage == "deleted":
        client.restore_experiment(known.experiment_id)
    return str(known.experiment_id)


def _log_run(
    client: MlflowClient, run_id: str, model: FolderModel, folder: Path, record: RunRecord, files: list[str]
) -> None:
    """Everything but the model itself."""
    import mlflow

    from prerouter.sklearnmodel import dump

    mlflow.log_params(dict(record.params))
    client.log_inputs(run_id, datasets=[_dataset(name, rows, record.digest) for name, rows in record.files.items()])
    mlflow.log_dict(model.certificate.to_json(), "certificate.json")
    mlflow.log_dict(dict(model.figures), "figures.json")
    mlflow.log_dict(
        {key: value for key, value in model.training.items() if not key.endswith("_hashes")}, "training.json"
    )
    mlflow.log_dict(model.taxonomy.to_dict(), "taxonomy.json")
    mlflow.log_artifact(str(folder / "README.md"))
    for name, plot in plots.drawn(model.figures):
        mlflow.log_figure(plot, f"plots/{name}.png")
    for file in files:
        mlflow.log_artifact(file)
    with tempfile.TemporaryDirectory() as beside:
        for path in dump(folder, Path(beside)):
            mlflow.log_artifact(str(path), "sklearn")


def _dataset(name: str, n_rows: int, digest: str) -> DatasetInput:
    """Name, rows and the digest of all data: no content of it."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source, profile = json.dumps({"uri": name}), json.dumps({"num_rows": n_rows})
    dataset = Dataset(Path(name).name[:500], digest[:36], "local", source, profile=profile)
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "training")])


def _register(client: MlflowClient, model: FolderModel, folder: Path, record: RunRecord, name: str) -> ModelVersion:
    """Log the folder behind a pyfunc, and register it."""
    import mlflow
    from pandas import DataFrame  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory() as beside:
        copy = Path(beside) / FOLDER
        shutil.copytree(folder, copy)
        info = mlflow.pyfunc.log_model(
            name=f"prerouter-{model.model_folder_id}",
            python_model=str(Path(__file__).with_name("mlflow_model.py")),
            artifacts={FOLDER: str(copy)},
            signature=_signature(),
            input_example=DataFrame({"text": [EXAMPLE]}),
            pip_requirements=[f"{package}=={_version(package)}" for package in ("prerouter", "mlflow")],
            metadata={ID_TAG: model.model_folder_id},
            registered_model_name=name,
            await_registration_for=30,
        )
    mlflow.log_metrics(dict(record.metrics), model_id=info.model_id)
    version = str(info.registered_model_version)
    client.update_model_version(name, version, modelcard.certificate(model.certificate))
    for key in (ID_TAG, "prerouter.gate", "prerouter.taxonomy", "prerouter.labelled_by"):
        client.set_model_version_tag(name, version, key, record.tags[key])
    return client.get_model_version(name, version)


def _signature() -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Map, TensorSpec

    text = ("label", "tier", "model", "decided_by", "reason")
    out: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, name, required=name not in ("tier", "model")) for name in text
    ]
    out += [ColSpec(DataType.long, "stage", required=False), ColSpec(DataType.double, "confidence")]
    out += [ColSpec(Map(DataType.double), "probabilities")]
    return ModelSignature(inputs=Schema([ColSpec(DataType.string, "text")]), outputs=Schema(out))


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _version_of(client: MlflowClient, name: str, run: Run) -> ModelVersion | None:
    found = client.search_model_versions(f"name = '{name}' and run_id = '{run.info.run_id}'")
    return found[0] if found else None


def _found(run: Run, version: ModelVersion, *, already: bool) -> dict[str, Any]:
    info = run.info
    return {
        "run_id": info.run_id,
        "experiment_id": info.experiment_id,
        "model": version.name,
        "version": str(version.version),
        "already": already,
    }


if __name__ == "__main__":
    sys.exit(main())
