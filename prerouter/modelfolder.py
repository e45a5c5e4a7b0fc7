"""Save, load and verify a model folder: a trained local classifier as plain data.

    model.json             everything but arrays: taxonomy, stages, certificate, figures, probes, SHA-256 of every file
    stages/N/head.safetensors   weights, bias, signal_mean, signal_scale; the guard's centroids
    stages/N/words.txt          the words that the guard knows
    stages/N/encoder/           the encoder's own files, see `encoder.load_encoder`
    README.md              the model card

Loading parses JSON and safetensors and nothing else: no pickle, no code. Hashes guard against damage, not against
forgery: whoever can write the folder can write new hashes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from prerouter import sealed
from prerouter.errors import ModelFolderError, PreRouterError
from prerouter.guard import Guard
from prerouter.taxonomy import Taxonomy
from prerouter.text import SIGNAL_NAMES, VERSIONS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

SCHEMA_VERSION = 1
MAX_SIGNAL = 4.0  # standard deviations; a signal further out says no more than that it is far out
_MODEL, _CARD = "model.json", "README.md"
_UPGRADE = "upgrade: pip install --upgrade prerouter"
_HEAD_ARRAYS = {"weights": 2, "bias": 1, "signal_mean": 1, "signal_scale": 1}
_ARRAYS = _HEAD_ARRAYS | {"centroids": 2}


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was shown about the gate, on which data. Shares are in [0, 1].

    valid: both upper bounds hold at `confidence`. When not, the figures are those of the strictest gate that was tried.
    max_under, max_disagreement: the contract; `max_under` is None for an unordered taxonomy, as are the others' twins.
    upper_under, upper_disagreement: one-sided Clopper-Pearson upper bounds at `confidence`.
    n_certify: rows tested, one per group; n_groups: groups; n_accepted: rows that the gate let pass.
    labelled_by, prompt_id: whose labels; a bound holds against this labeller only.
    scope: "shipped data", or the workspace whose traffic was sampled.
    needed_rows: labelled requests that would open a closed gate, see `certify.needed_rows`; None when valid.
    """

    valid: bool
    confidence: float
    max_under: float | None
    max_disagreement: float
    upper_under: float | None
    upper_disagreement: float
    n_certify: int
    n_groups: int
    n_accepted: int
    errors_under: int | None
    errors_disagreement: int
    labelled_by: str
    prompt_id: str | None
    scope: str
    text_version: int
    created_at: str
    needed_rows: int | None

    def to_json(self) -> dict[str, Any]:
        """The fields of CONTRACT.md's certificate."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Gate:
    """The largest risk that a stage decides at; None: closed. `quality_threshold` is the strictest certified one."""

    threshold: float | None = None
    quality_threshold: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """Multinomial logistic regression on an encoder's features and on standardised signals.

    weights: (n_labels, n_features + n_signals) float32. bias: (n_labels,) float32.
    signal_mean, signal_scale: (n_signals,) float32; see `standard`.
    """

    weights: Floats
    bias: Floats
    signal_mean: Floats
    signal_scale: Floats

    def standard(self, signals: Any) -> Floats:
        """(..., n_signals) float32: signals as the weights take them, within MAX_SIGNAL standard deviations."""
        z: Floats = (np.asarray(signals, np.float32) - self.signal_mean) / self.signal_scale
        return np.minimum(np.maximum(z, -MAX_SIGNAL), MAX_SIGNAL)


@dataclass(frozen=True, slots=True)
class Stage:
    """One local stage. `encoder` is the folder its encoder is (to be copied) in.

    temperature: > 0, divides the logits. The guard looks at the first n_dims features: the embedding.
    """

    encoder: Path
    fingerprint: str
    head: Head
    temperature: float
    gate: Gate
    guard: Guard


@dataclass(frozen=True, slots=True)
class Probe:
    """A text and each stage's probabilities for it: a loaded folder must reproduce them."""

    text: str
    probabilities: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class FolderModel:
    """Everything in a model folder. `model_folder_id` (12 hex of model.json's SHA-256) is "" until it is saved."""

    taxonomy: Taxonomy
    text_version: int
    stages: tuple[Stage, ...]
    certificate: Certificate
    probes: tuple[Probe, ...]
    training: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    model_folder_id: str = ""


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, prerouter and `packages`, for the record."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    out = {"python": platform.python_version()}
    for name in ("prerouter", "numpy", *packages):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "unknown"
    return out


def save(folder: Path, model: FolderModel, card: str) -> FolderModel:
    """Write `model` and its card to `folder`, and return it as loaded from there.

    Written beside and renamed: a reader, or a crash, sees the old folder, none, or the whole new one. An existing
    folder is replaced only when it is a model folder. Raises ModelFolderError.
    """
    folder = Path(os.path.realpath(folder))  # a link such as models/champion is written through, not replaced
    if folder.exists() and any(folder.iterdir()) and not (folder / _MODEL).is_file():
        _refuse("will not overwrite a folder that is no model folder", folder, "choose another name or empty it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
        new = Path(name) / "new"
        _write(new, model, card)
        _sync(new)
        if folder.exists():
            folder.rename(Path(name) / "old")
        new.rename(folder)
    return load(folder)


def load(folder: Path) -> FolderModel:
    """The model in `folder`, every byte of it verified; encoders are opened by `local.LocalClassifier`.

    Raises ModelFolderError, naming the file and the next step.
    """
    folder = Path(folder)
    if not folder.is_dir():
        _refuse("no such model folder", folder, "check the path, or leave it out to use the shipped model")
    data = _read(folder, _MODEL)
    content = _parse(data, folder / _MODEL)
    _check_files(content, folder)
    try:
        return _model(content, folder, sealed.sha256(data)[:12])
    except ModelFolderError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, PreRouterError) as error:
        _refuse(f"not a valid model: {type(error).__name__}: {error}", folder / _MODEL, "train or download it again")


def _write(folder: Path, model: FolderModel, card: str) -> None:
    from safetensors.numpy import save as dump_arrays

    folder.mkdir()
    for i, stage in enumerate(model.stages):
        target = folder / "stages" / str(i)
        shutil.copytree(stage.encoder, target / "encoder", copy_function=shutil.copyfile)
        arrays = {name: getattr(stage.head, name) for name in _HEAD_ARRAYS} | {"centroids": stage.guard.centroids}
        arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
        (target / "head.safetensors").write_bytes(dump_arrays(arrays))
        (target / "words.txt").write_text("\n".join(sorted(stage.guard.words)), "utf-8", newline="\n")
    (folder / _CARD).write_text(card, "utf-8", newline="\n")
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    content = _content(model) | {"files": {name: sealed.sha256(path.read_bytes()) for name, path in files.items()}}
    (folder / _MODEL).write_bytes(sealed.write(content))


def _content(model: FolderModel) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "text_version": model.text_version,
        "taxonomy": model.taxonomy.to_dict(),
        "stages": [_stage_content(stage) for stage in model.stages],
        "certificate": asdict(model.certificate),
        "probes": [asdict(probe) for probe in model.probes],
        "training": dict(model.training),
        "figures": dict(model.figures),
        "versions": dict(model.versions),
    }


def _stage_content(stage: Stage) -> dict[str, Any]:
    return {
        "encoder": {"fingerprint": stage.fingerprint},
        "temperature": stage.temperature,
        "gate": asdict(stage.gate),
        "guard": {"limit": stage.guard.limit, "max_unknown": stage.guard.max_unknown},
    }


def _sync(folder: Path) -> None:
    """Force the files to disk before the rename makes them visible."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _parse(data: bytes, where: Path) -> dict[str, Any]:
    """The content; versions are looked at before the seal, which a newer prerouter may make in another way."""
    try:
        content = sealed.read(data)
    except sealed.Broken as error:
        _refuse(f"not valid JSON: {error}", where, "copy or download the folder again")
    known, found, text_version = SCHEMA_VERSION, content.get("schema_version"), content.get("text_version")
    if type(found) is not int or found < 1:
        _refuse("not a model.json: no schema_version", where, "pass the path of a model folder")
    if found > known:
        _refuse(f"made by a newer prerouter: schema version {found}, known up to {known}", where, _UPGRADE)
    if type(text_version) is not int or text_version not in VERSIONS:
        names = ", ".join(map(str, VERSIONS))
        _refuse(f"unknown text version {text_version}; this prerouter knows {names}", where, _UPGRADE)
    if not sealed.is_whole(content, data):
        _refuse("checksum does not match: edited or damaged", where, "copy or download the folder again")
    return content


def _check_files(content: Mapping[str, Any], folder: Path) -> None:
    files = content.get("files")
    if not isinstance(files, dict) or _CARD not in files:
        _refuse("model.json lists no files", folder / _MODEL, "train or download it again")
    for name, digest in files.items():
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name or "\0" in name:
            _refuse(f"unsafe file name {name!r}", folder / _MODEL, "do not use this folder")
        if sealed.sha256(_read(folder, name)) != digest:
            _refuse("file is damaged: its SHA-256 differs from model.json", folder / name, "copy the folder again")


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        _refuse(f"{name} is missing", folder, "copy or download the whole folder again")
    except OSError as error:
        _refuse(f"cannot read {name}: {error.strerror}", folder, "check the file's type and permissions")


def _model(content: Mapping[str, Any], folder: Path, model_folder_id: str) -> FolderModel:
    taxonomy = Taxonomy.from_dict(content["taxonomy"], str(folder / _MODEL))
    stages = tuple(_stage(content, i, folder, len(taxonomy.names)) for i in range(len(content["stages"])))
    if not stages:
        _refuse("no stages", folder / _MODEL, "train it again")
    return FolderModel(
        taxonomy=taxonomy,
        text_version=content["text_version"],
        stages=stages,
        certificate=Certificate(**{f.name: content["certificate"][f.name] for f in fields(Certificate)}),
        probes=tuple(Probe(p["text"], tuple(map(tuple, p["probabilities"]))) for p in content["probes"]),
        training=content["training"],
        figures=content["figures"],
        versions=content["versions"],
        model_folder_id=model_folder_id,
    )


def _stage(content: Mapping[str, Any], i: int, folder: Path, n_labels: int) -> Stage:
    item, name = content["stages"][i], f"stages/{i}"
    for needed in (f"{name}/head.safetensors", f"{name}/words.txt", f"{name}/encoder/"):
        if not any(known.startswith(needed) for known in content["files"]):
            _refuse(f"stage {i} has no {needed}", folder / _MODEL, "copy or download the whole folder again")
    arrays = _arrays(folder / name / "head.safetensors", n_labels)
    words = (folder / name / "words.txt").read_text("utf-8").split("\n")
    limit, max_unknown = _number(item["guard"]["limit"], 0.0, 2.0), _number(item["guard"]["max_unknown"], 0.0, 1.0)
    return Stage(
        encoder=folder / name / "encoder",
        fingerprint=item["encoder"]["fingerprint"],
        head=Head(**{name: arrays[name] for name in _HEAD_ARRAYS}),
        temperature=_number(item["temperature"], 1e-3, 1e3),
        gate=Gate(**{key: None if v is None else _number(v, 0.0, 1e9) for key, v in item["gate"].items()}),
        guard=Guard(arrays["centroids"], limit, frozenset(words), max_unknown),
    )


def _number(value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{value!r} is not a number from {low:g} to {high:g}")
    return float(value)


def _arrays(path: Path, n_labels: int) -> dict[str, Floats]:
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_arrays

    try:
        arrays = load_arrays(path.read_bytes())
    except (SafetensorError, OSError, ValueError) as error:
        _refuse(f"not a safetensors file: {error}", path, "copy or download the folder again")
    for name, n_axes in _ARRAYS.items():
        array = arrays.get(name)
        if array is None or array.ndim != n_axes or array.dtype != np.float32 or not array.size:
            _refuse(f"{name} must be a float32 array with {n_axes} axes", path, "train it again")
        if not np.isfinite(array).all():
            _refuse(f"{name} holds NaN or infinity", path, "train it again")
    n_signals = len(SIGNAL_NAMES)
    shapes = [arrays[name].shape for name in ("bias", "signal_mean", "signal_scale")]
    if shapes != [(n_labels,), (n_signals,), (n_signals,)] or len(arrays["weights"]) != n_labels:
        _refuse("array shapes do not fit the labels and signals", path, "train it again")
    return arrays


def _refuse(what: str, where: Path, next_step: str) -> NoReturn:
    raise ModelFolderError(what, where=str(where), next_step=next_step)
