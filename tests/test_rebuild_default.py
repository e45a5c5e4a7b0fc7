"""The script that makes models/default, on a transformer of random weights and requests in its few words."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from test_export import bert

from prerouter.finetune import Recipe
from prerouter.local import LocalClassifier

ROOT = Path(__file__).parent.parent
EXTRA = "needs the extra: pip install 'prerouter[transformer]'"
torch = pytest.importorskip("torch", reason=EXTRA)
pytest.importorskip("sentence_transformers", reason=EXTRA)
sys.path.append(str(ROOT / "training"))  # scripts, which import each other by name

import kept  # noqa: E402
import rebuild_default  # noqa: E402
from plan import Plan, Run  # noqa: E402

TELLING = {"simple": "cat", "moderate": "mat", "complex": "sat"}
FILLER = ("the", "of", "naive", "café", "£", "α", ".", "!")
N_ROWS = 150  # of each file: with fewer the gate stays closed
RUNS = (Run(0, (), n_injected=6), Run(1, (), n_injected=6))
QUICK = Recipe(epochs=8, rate=3e-3, layer_decay=1.0, head_rate=1e-2)


@dataclass(frozen=True)
class Built:
    data: Path
    work: Path
    plan: Plan
    local: LocalClassifier
    card: str

    def kept(self) -> dict[str, float]:
        """The files of what was learnt and of features, and when they were written; reading features dates them."""
        paths = [path for path in self.work.rglob("*") if path.is_file()]
        return {str(path): 0.0 if path.suffix == ".rows" else path.stat().st_mtime_ns for path in paths}


def requests(name: str, seed: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    for i in range(N_ROWS):
        label = str(rng.choice(list(TELLING)))
        row: dict[str, Any] = {"text": " ".join(rng.permutation([TELLING[label], *rng.choice(FILLER, 10)]))}
        if name != "authored":
            row["source"] = f"source {i % 3}"
        if name != "unlabelled":
            row |= {"label": label, "second": label, "sure": i % 5 > 0}
        yield row


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    folder, threads = tmp_path_factory.mktemp("rebuild"), torch.get_num_threads()
    data, out, work = folder / "data", folder / "model", folder / "work"
    for seed, name in enumerate(("train", "extra", "authored", "unlabelled")):
        synthetic.write(data / "requests" / f"{name}.jsonl", requests(name, seed))
    (data / "requests" / "RUBRIC.md").write_text("a request with a cat is simple\n")
    plan = Plan(bert(folder / "bert", max_tokens=256), RUNS, QUICK, n_dims=16, rotations=2, workers=1)
    rebuild_default.build(data, out, work, plan)
    yield Built(data, work, plan, LocalClassifier.load(out), (out / "README.md").read_text("utf-8"))
    torch.set_num_threads(threads)


def test_the_folder_loads_and_both_stages_have_gate_and_figures(built: Built) -> None:
    built.local.warm()
    model, made = built.local.model, built.local.certificate
    assert made.valid, "requests whose label one word tells are too hard"
    assert model.figures["n"] == made.n_certify == model.training["rows"]["certify"]
    first, second = model.stages
    assert first.gate.threshold == pytest.approx(0.5 * (second.gate.threshold or 0))  # gates.SHARPNESS
    decided = [stage["coverage"][0] for stage in model.figures["shares_by_stage"]]
    assert sum(decided) == pytest.approx(model.figures["coverage"], abs=1e-3) == made.n_accepted / made.n_certify


def test_every_figure_has_its_place_in_the_card(built: Built) -> None:
    template = (ROOT / "training" / "default_card.md").read_text("utf-8")
    headings = [line for line in template.splitlines() if line.startswith("#")]
    assert [line for line in built.card.splitlines() if line.startswith("#")] == headings
    assert len(headings) == 5
    lines = [line for line in built.card.splitlines() if line.startswith("| ")]
    titles = ["all held-out rows", *(f"of {name}.jsonl" for name in ("train", "extra", "authored"))]
    titles += [*(f"labelled {label}" for label in TELLING), "sources never seen", "0", "1", "prerouter", "oracle"]
    assert [sum(line.startswith(f"| {title} |") for line in lines) for title in titles] == [1] * len(titles)
    figures = built.local.model.figures
    assert f"| all held-out rows | {figures['n']} | {figures['accuracy']:.1%} (" in built.card
    assert figures["left_out_sources"]["n"] == 2 * N_ROWS  # each row of a source is left out once


def test_a_second_run_learns_and_encodes_nothing(built: Built, tmp_path: Path) -> None:
    before = built.kept()
    again = rebuild_default.build(built.data, tmp_path / "model", built.work, built.plan)
    assert built.kept() == before
    assert sum(path.endswith(".rows") for path in before) >= 6  # of two encoders in each of three turns
    assert again.probes == built.local.model.probes
    assert again.figures == built.local.model.figures


def test_what_hangs_on_other_things_is_learnt_anew(tmp_path: Path) -> None:
    learnt = []

    def learn() -> dict[str, np.ndarray]:
        learnt.append(len(learnt))
        if len(learnt) == 3:
            raise KeyboardInterrupt
        return {"weights": np.full((2, 3), learnt[-1], np.float32)}

    def weight(record: str) -> float:
        return float(kept.once(tmp_path / "run", {"rows": record}, learn)["weights"].mean())

    assert [weight("a"), weight("a"), weight("b"), weight("b")] == [0, 0, 1, 1]
    with pytest.raises(KeyboardInterrupt):
        weight("c")
    assert weight("b") == 3, "what was interrupted passes for done"


def test_missing_data_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rebuild_default.main([str(tmp_path), "--out", str(tmp_path / "model")]) > 0
    assert "rebuild_default: error: " in (shown := capsys.readouterr().err)
    assert "RUBRIC.md" in shown
    assert not (tmp_path / "model").exists()
