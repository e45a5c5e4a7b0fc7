"""Intent classification against published figures: python training/benchmarks/intents.py DATA_DIR [--encoder NAME]

DATA_DIR/intents must hold banking77_train.jsonl, clinc150_train.jsonl and clinc150_val.jsonl. Of BANKING77, whose test
part is not here, a fifth by the text's hash is held out; CLINC150 is measured on its validation part, with its
out-of-scope requests. Models are trained as `prerouter train --taxonomy infer --novel-label oos --finetune` trains
them; the held-out rows are only measured. Prints a line per data set and writes intents.json beside this file. Takes an
hour or so on two cores.

The published figures are of a gate of 304 MB that takes 3 to 4 ms: accuracy on all requests, on the share that it
accepts, and the share of out-of-scope requests that it rejects there. Here the same share is accepted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prerouter import certify, figures
from prerouter.errors import DataError, PreRouterError
from prerouter.examples import read_examples
from prerouter.figures import Seen
from prerouter.files import read_jsonl
from prerouter.local import LocalClassifier
from prerouter.training import train

NOVEL_LABEL, HELD_OUT, SEED = "oos", 0.2, 0


@dataclass(frozen=True, slots=True)
class Published:
    """Shares in [0, 1]: accuracy on all, accepted, accuracy on these, out-of-scope requests rejected."""

    accuracy: float
    accepted: float
    accuracy_accepted: float
    rejected: float | None = None


DATA = {
    "banking77": (("banking77_train.jsonl",), None, Published(0.9334, 0.9062, 0.9724)),
    "clinc150": (("clinc150_train.jsonl",), "clinc150_val.jsonl", Published(0.9618, 0.9211, 0.9870, 0.864)),
}


def main() -> int:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description="BANKING77 and CLINC150 against published figures.")
    parser.add_argument("data", type=Path, metavar="DATA_DIR", help="the folder that holds intents/*.jsonl")
    parser.add_argument("--encoder", metavar="NAME", help="as it is, in place of one fine-tuned on the intents")
    parser.add_argument("--only", choices=sorted(DATA), help="one of the data sets")
    options = parser.parse_args()
    found = []
    try:
        for name in [options.only] if options.only else sorted(DATA):
            with tempfile.TemporaryDirectory() as scratch:
                found.append(measured(name, options.data / "intents", Path(scratch), options.encoder))
            print(json.dumps(found[-1]), flush=True)
    except PreRouterError as error:
        print(f"intents: error: {error}", file=sys.stderr)
        return error.exit_code
    Path(__file__).with_suffix(".json").write_text(json.dumps({"runs": found}, indent=1) + "\n")
    return 0


def measured(name: str, folder: Path, scratch: Path, encoder: str | None) -> dict[str, Any]:
    """Train on one data set, and the figures on its held-out rows."""
    lessons, test = split(name, folder, scratch)
    how: dict[str, Any] = {"encoder": encoder} if encoder else {"finetune": True}
    started = time.monotonic()
    train([lessons], scratch / "model", taxonomy="infer", novel_label=NOVEL_LABEL, track=False, seed=SEED, **how)
    seconds = time.monotonic() - started
    local = LocalClassifier.load(scratch / "model")
    rows = read_examples([test], local.model.taxonomy, novel_label=NOVEL_LABEL)
    truth = [figures.NOVEL if row.label is None else local.model.taxonomy.index(row.label) for row in rows]
    seen = figures.look(local, [row.request for row in rows], truth)
    f = figures.summarise(seen, local, {}, seed=SEED)
    keys = ("n", "n_novel", "accuracy", "coverage", "disagreement", "novel_coverage", "auroc_novel", "gate")
    out = {"data": name, "encoder": encoder or "fine-tuned", "seconds_of_training": round(seconds)}
    out |= {"published": asdict(DATA[name][2]), "ours": accepted(seen, DATA[name][2].accepted)}
    return out | {"own_gate": {key: getattr(f, key) for key in keys}, "intervals": f.intervals}


def split(name: str, folder: Path, scratch: Path) -> tuple[Path, Path]:
    """Files to train on and to measure on."""
    files, test_file, _ = DATA[name]
    rows = [row for file in files for row in read(folder / file)]
    if test_file:
        test = read(folder / test_file)
    else:
        draws = [int(hashlib.sha256(row["text"].lower().encode()).hexdigest()[:8], 16) / 16**8 for row in rows]
        test = [row for row, draw in zip(rows, draws, strict=True) if draw < HELD_OUT]
        rows = [row for row, draw in zip(rows, draws, strict=True) if draw >= HELD_OUT]
    return write(scratch / "train.jsonl", rows), write(scratch / "test.jsonl", test)


def accepted(seen: Seen, share: float) -> dict[str, Any]:
    """Figures with the `share` of the rows with a label accepted that gate and guard would turn away last."""
    limit = np.sort(seen.strangeness[seen.known])[round(share * seen.known.sum()) - 1]
    passes, right = seen.strangeness <= limit, seen.counted()["right"]
    counts = {
        "accuracy": (right, seen.known),
        "accepted": (passes & seen.known, seen.known),
        "accuracy_accepted": (right & passes, passes & seen.known),
        "rejected": (~passes & ~seen.known, ~seen.known),
    }
    return {name: interval(int(k.sum()), int(n.sum())) for name, (k, n) in counts.items()}


def interval(k: int, n: int) -> list[float] | None:
    """[estimate, lower, upper], 95 % Clopper-Pearson; None without rows."""
    if not n:
        return None
    return [round(v, 4) for v in (k / n, certify.lower_bound(k, n, 0.975), certify.upper_bound(k, n, 0.975))]


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of one file."""
    if not path.is_file():
        raise DataError("data file is missing", file=path, next_step="pass the folder that holds intents/*.jsonl")
    with path.open("rb") as lines:
        rows = [row for _, row in read_jsonl(lines, path)]
    for row in rows:
        if isinstance(row, DataError):
            raise row
    return [row for row in rows if not isinstance(row, DataError)]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """The rows as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
