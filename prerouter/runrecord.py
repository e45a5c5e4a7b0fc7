"""What of a model folder goes into an MLflow run, and under which names. Nothing here knows MLflow."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prerouter.modelfolder import FolderModel

ID_TAG = "prerouter.model_folder_id"
_CANDIDATE = "prerouter.candidate"
MAX_ENTRIES = 24  # of a mapping: a run with metrics for each of 150 labels cannot be read; figures.json has them all
MAX_VALUE = 500  # characters of a parameter; MLflow takes 6,000
_NOT_IN_NAMES = re.compile(r"[^\w\-. /]+", re.ASCII)
# Of the training record: what is told elsewhere in the run, or too long for a parameter.
_ELSEWHERE = ("fingerprint", "files", "candidates", "cross_validation", "row_hashes", "encoder_hashes")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run. params, tags: text by name. metrics: finite floats by name; shares in [0, 1].

    candidates: what was compared before this one was taken, each to be a run inside the run.
    files: {name of a data file: its rows}. digest: fingerprint of the data.
    """

    name: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    candidates: tuple[RunRecord, ...] = ()
    files: Mapping[str, int] = field(default_factory=dict)
    digest: str = ""


def run_record(model: FolderModel) -> RunRecord:
    """The run of a finished model folder: its recipe, figures, certificate, data and versions; no request's text."""
    made, training = model.certificate, model.training
    recipe = {key: value for key, value in training.items() if key not in _ELSEWHERE}
    contract = {"max_under": made.max_under, "max_disagreement": made.max_disagreement, "confidence": made.confidence}
    stages = {
        f"stage_{i}": {"encoder": stage.fingerprint, "temperature": round(stage.temperature, 4)}
        for i, stage in enumerate(model.stages)
    }
    files = training.get("files")
    return RunRecord(
        name=f"{model.taxonomy.name} {model.model_folder_id}",
        params=_texts(recipe | {"contract": contract, "text_version": model.text_version} | stages),
        metrics=_figures(model.figures) | _numbers({"certificate": _bounds(model)}),
        tags=_tags(model),
        candidates=tuple(_candidates(training)),
        files=files if isinstance(files, Mapping) else dict.fromkeys(files or (), 0),
        digest=str(training.get("fingerprint") or model.model_folder_id),
    )


def _bounds(model: FolderModel) -> dict[str, Any]:
    made = model.certificate.to_json()
    return {key: value for key, value in made.items() if key not in ("max_under", "max_disagreement", "text_version")}


def _tags(model: FolderModel) -> dict[str, str]:
    made = model.certificate
    tags = {
        ID_TAG: model.model_folder_id,
        "prerouter.taxonomy": f"{model.taxonomy.name} {model.taxonomy.id}",
        "prerouter.gate": "open" if made.valid else "closed",
        "prerouter.labelled_by": made.labelled_by,
        "prerouter.prompt_id": made.prompt_id or "",
        "prerouter.scope": made.scope,
        "prerouter.created_at": made.created_at,
    }
    return tags | {f"version.{name}": version for name, version in model.versions.items()}


def _candidates(training: Mapping[str, Any]) -> Iterator[RunRecord]:
    """Encoders that were compared, and values of C with their loss in cross-validation."""
    for item in training.get("candidates") or ():
        # Its numbers are its scores, but for C, which was chosen.
        chosen = {key: value for key, value in item.items() if key == "C" or not isinstance(value, int | float)}
        rest = {key: value for key, value in item.items() if key not in chosen}
        yield RunRecord(f"encoder {item['name']}", _texts(chosen), _numbers(rest), {_CANDIDATE: "encoder"})
    for strength, loss in (training.get("cross_validation") or {}).items():
        yield RunRecord(f"C = {strength}", {"C": strength}, _numbers({"log_loss": loss}), {_CANDIDATE: "C"})


def _figures(figures: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of figures; the interval of each beside it, as NAME.lower and NAME.upper."""
    rest = {key: value for key, value in figures.items() if key != "intervals"}
    return _numbers(rest) | _numbers(figures.get("intervals") or {})


def _texts(table: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value)[:MAX_VALUE] for name, value in _leaves(table) if value is not None}


def _numbers(table: Mapping[str, Any]) -> dict[str, float]:
    """Metrics. A list of three is an estimate with its interval's ends; a pair is an interval's ends."""
    found: dict[str, Any] = {}
    for name, value in _leaves(table):
        ends = {3: ("", ".lower", ".upper"), 2: (".lower", ".upper")}.get(len(value)) if _is_list(value) else None
        found |= {name + end: part for end, part in zip(ends, value, strict=True)} if ends else {name: value}
    # bool is an int, and says something as a metric too: certificate.valid.
    return {name: float(v) for name, v in found.items() if isinstance(v, int | float) and math.isfinite(v)}


def _leaves(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping):
            yield from _leaves(value, name) if len(value) <= MAX_ENTRIES else ()
        else:
            yield _NOT_IN_NAMES.sub("_", name).strip("/. ") or "_", value


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
