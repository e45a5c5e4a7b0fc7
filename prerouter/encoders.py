"""Which encoders a training may take, by name, and where their folders are.

static       the static encoder of the shipped model: numpy only, microseconds
transformer  the shipped model's transformer, fine-tuned on what models/default was trained on
minilm       all-MiniLM-L6-v2 as it comes, exported to ONNX (needs the `transformer` extra once)
DIR          a folder: an encoder of a model folder (`.../stages/0/encoder`), or a sentence-transformers model
NAME         a sentence-transformers model by name, downloaded and exported
auto         each of the shipped ones, compared
A+B          two stages: what A is not sure of goes to B
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prerouter import modelfolder, overlap
from prerouter.encoder import TRANSFORMER_FILES, Encoder, load_encoder
from prerouter.errors import ConfigError
from prerouter.files import expanded, shipped
from prerouter.recipe import AUTO

STATIC, TRANSFORMER, MINILM = "static", "transformer", "minilm"
_SHIPPED_FILES = {STATIC: "modules.json", TRANSFORMER: "model.onnx"}


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A name, and for each stage the encoder and its folder."""

    name: str
    folders: tuple[Path, ...]
    encoders: tuple[Encoder, ...]


def candidates(names: Sequence[str], cache: Path) -> list[Candidate]:
    """The encoders that `names` stand for, each once. cache: folder for exported ones.

    Raises ConfigError for a name that stands for none, ModelFolderError for a broken folder, MissingExtraError.
    """
    wanted = [known for name in names for known in (list(_shipped()) if name == AUTO else [name])]
    return [_candidate(name, cache) for name in dict.fromkeys(wanted)]


def lessons(names: Sequence[str]) -> str:
    """Hashes (see `overlap.remember`) of the labelled rows that the encoders behind `names` were fine-tuned on.

    What such an encoder says of these rows is better than what it says of others, so they cannot certify. Known are the
    shipped encoders, wherever they lie, and those of any model folder. Raises ModelFolderError for a broken one.
    """
    parts = {part for name in names for part in ([name] if expanded(name).is_dir() else name.split("+"))}
    return overlap.joined(map(_lessons, sorted(parts)))


def exported(source: str | Path, cache: Path) -> Path:
    """The folder in `cache` with the export of a sentence-transformers model, made there at the first call."""
    from prerouter import export

    folder = expanded(source)
    content = _files_hash(folder) if folder.is_dir() else str(source)
    out = cache / hashlib.sha256(f"{content} {export.HEAD_TOKENS} {export.TAIL_TOKENS}".encode()).hexdigest()[:16]
    if not all((out / name).is_file() for name in TRANSFORMER_FILES):
        export.export_transformer(source, out)
    return out


def source_of(name: str) -> str | Path | None:
    """What `finetune` starts from for an encoder of this name; None: all-MiniLM-L6-v2."""
    if name in (AUTO, MINILM):
        return None
    if name in _SHIPPED_FILES or "+" in name:
        step = "name a sentence-transformers model, or leave --encoder out for all-MiniLM-L6-v2"
        raise ConfigError(f"{name!r} cannot be fine-tuned", where="--encoder", next_step=step)
    return name


def _candidate(name: str, cache: Path) -> Candidate:
    folders = tuple(_folder(part, cache) for part in ([name] if expanded(name).is_dir() else name.split("+")))
    return Candidate(name, folders, tuple(map(load_encoder, folders)))


def _folder(name: str, cache: Path) -> Path:
    if name in _SHIPPED_FILES:
        found = _shipped().get(name)
        if found is None:
            known = ", ".join([*_shipped(), MINILM])
            raise ConfigError(
                f"the shipped model has no {name} encoder", where="--encoder", next_step=f"there are: {known}"
            )
        return found
    if name == MINILM:
        from prerouter import export

        return exported(export.minilm_folder(), cache)
    folder = expanded(name)
    if (folder / "model.json").is_file():
        step = f"name one of its encoders, such as {folder / 'stages' / '0' / 'encoder'}"
        raise ConfigError("this is a whole model folder", where=f"--encoder {name}", next_step=step)
    if (folder / "encoder.json").is_file() or _is_static(folder):
        return folder
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        # Said here: whoever keeps models by name would be asked for it several times over.
        raise ConfigError("no such folder", where=f"--encoder {name}", next_step="check the path")
    return exported(name, cache)


def _lessons(name: str) -> str:
    if name == AUTO or name in _SHIPPED_FILES:
        return overlap.of_encoders(modelfolder.load(shipped("models/default")).training)
    folder = expanded(name).resolve()
    home = folder.parents[min(2, len(folder.parents) - 1)]  # of `home/stages/0/encoder`
    if (home / "model.json").is_file():
        return overlap.of_encoders(modelfolder.load(home).training)
    if (folder / "encoder.json").is_file() or _is_static(folder):
        default = modelfolder.load(shipped("models/default"))
        if load_encoder(folder).fingerprint in {stage.fingerprint for stage in default.stages}:
            return overlap.of_encoders(default.training)
    return ""


def _shipped() -> dict[str, Path]:
    """The shipped model's encoders by name, in the order of its stages."""
    found: dict[str, Path] = {}
    for stage in modelfolder.load(shipped("models/default")).stages:
        found |= {name: stage.encoder for name, file in _SHIPPED_FILES.items() if (stage.encoder / file).is_file()}
    return found


def _is_static(folder: Path) -> bool:
    modules = folder / "modules.json"
    return modules.is_file() and "StaticEmbedding" in modules.read_text("utf-8", "replace")


def _files_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
