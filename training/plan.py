"""How much models/default learns. Used by rebuild_default.py and both stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prerouter.export import minilm_folder
from prerouter.finetune import Recipe

SEED = 0
RECIPE = Recipe(epochs=3)  # rate 2e-4, each layer 0.8 of the one above: the best of nine, see README.md


@dataclass(frozen=True, slots=True)
class Run:
    """One fine-tuning. written: which sources of written.jsonl it learns from, with `weight`.

    n_injected: copies with prompt injections, as many of each label. What to do with them is not known, so all labels
    are their target alike: a request that talks to the router is left to fall through.
    """

    seed: int
    written: tuple[int, ...]
    weight: float = 0.4
    n_injected: int = 600


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rebuild learns; another than the usual one makes a small model, to see that the script runs.

    source: the sentence-transformers model that is fine-tuned; None: all-MiniLM-L6-v2. runs: the weights of several are
    averaged (Wortsman et al. 2022, "Model soups"). recipe: of each. n_dims: of the static stage's vectors; 128 are
    7.6 MB. rotations: of left-out sources, each with the last run only, for time. workers: processes.
    """

    source: Path | None = None
    runs: tuple[Run, ...] = (Run(0, (0, 1, 2, 3, 4, 5, 6)), Run(1, (0, 1, 4, 6)))
    recipe: Recipe = RECIPE
    n_dims: int = 128
    rotations: int = 5
    workers: int = 2

    @property
    def start(self) -> Path:
        """The folder of the model that is fine-tuned. Raises ConfigError when all-MiniLM-L6-v2 is not installed."""
        return self.source or minilm_folder()

    def record(self) -> dict[str, Any]:
        """What both stages hang on, as JSON."""
        return {"source": str(self.source) if self.source else None}
