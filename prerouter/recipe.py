"""The recipe of a training: every choice that is not data. `training/default.toml` of a workspace, or --recipe FILE."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prerouter.certify import Contract, Part
from prerouter.errors import ConfigError
from prerouter.files import expanded
from prerouter.finetune import Recipe as Finetuning
from prerouter.settings import Settings
from prerouter.tables import convert, did_you_mean, hints, read_table, read_toml

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. The contract is met at `confidence`: see `certify.Contract`.

    encoder: names as `encoders.candidates` takes them; of several, the best in cross-validation is taken.
    finetune: fine-tune a sentence-transformers model on the labels first, as the table `[finetuning]` says.
    certify_errors: certify gets at most the rows that would hold so many errors at the contract's strictest limit,
    calibrate half as many; what is more goes to fit. More rows to certify on bring the certified gate nearer to the
    limit, by ever less (100 errors: within a sixth of it); rows to fit on make fewer errors.
    cv_rows: rows on which C is chosen, at most; compare_rows: on which encoders are compared.
    max_lost: largest share of known requests that the guard may turn away for the sake of novel ones.
    cache_gb: of features kept on disk.
    """

    encoder: tuple[str, ...] = (AUTO,)
    finetune: bool = False
    max_under: float = 0.05
    max_disagreement: float = 0.10
    confidence: float = 0.95
    seed: int = 0
    certify_errors: int = 100
    cv_rows: int = 20_000
    compare_rows: int = 4_000
    max_lost: float = 0.10
    cache_gb: float = 4.0
    finetuning: Finetuning = field(default_factory=Finetuning)

    def contract(self, *, ordered: bool) -> Contract:
        """The contract; without under-routing for an unordered taxonomy."""
        return Contract(self.max_under if ordered else None, self.max_disagreement, self.confidence)

    def most(self, *, ordered: bool) -> dict[Part, int]:
        """Rows that each part but fit gets at most."""
        strictest = min(self.max_under, self.max_disagreement) if ordered else self.max_disagreement
        certify = math.ceil(self.certify_errors / strictest)
        return {"certify": certify, "calibrate": math.ceil(certify / 2)}


def load_recipe(path: str | Path | None, settings: Settings, changes: Mapping[str, Any]) -> Recipe:
    """The recipe in `path` (None: the workspace's training/default.toml if there is one), with `changes` to it.

    changes: fields of `Recipe` by name; None leaves one as it is. Raises ConfigError for an unknown or wrong one.
    """
    usual = settings.workspace / "training" / "default.toml" if settings.workspace else None
    if path is None and usual and usual.is_file():
        path = usual
    where = str(path or "train")
    recipe = read_table(Recipe, read_toml(expanded(path), "the recipe"), where) if path else Recipe()
    known = hints(Recipe)
    for key, value in changes.items():
        if key not in known:
            raise ConfigError(f"unknown option {key}", where="train", next_step=did_you_mean(key, known))
        if value is not None:
            value = [value] if key == "encoder" and isinstance(value, str | Path) else value
            value = [str(item) for item in value] if key == "encoder" else value
            recipe = replace(recipe, **{key: convert(known[key], value, "train", key)})
    return _checked(recipe, where)


_SHARES = ("max_under", "max_disagreement", "confidence")


def _checked(recipe: Recipe, where: str) -> Recipe:
    ranges = dict.fromkeys(_SHARES, (1e-6, 1 - 1e-6)) | {"max_lost": (0.0, 0.5), "cache_gb": (0.0, 1e6)}
    ranges |= dict.fromkeys(("cv_rows", "compare_rows"), (100, 1e9)) | {"certify_errors": (10, 1e6)}
    for key, (low, high) in ranges.items():
        value = getattr(recipe, key)
        if not low <= value <= high:  # NaN fails too
            shown = "more than 0 and less than 1" if key in _SHARES else f"from {low:g} to {high:g}"
            raise ConfigError(f"{key} is {value}", where=where, next_step=f"choose a value {shown}")
    if not recipe.encoder:
        raise ConfigError("no encoder is named", where=where, next_step=f"leave `encoder` out, or name {AUTO}")
    return recipe
