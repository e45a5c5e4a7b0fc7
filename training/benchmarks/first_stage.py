"""Speed of the first stage against its tokeniser: python training/benchmarks/first_stage.py DATA_DIR [MODEL_DIR]

Texts are those of DATA_DIR/requests/unlabelled.jsonl, joined and cut to 25, 500 and 2,000 tokens. Tokenising is the
`tokenizers` library's own `encode`. Both are timed in turn on every text, in this one run, on one core. `fresh` is the
first time that the stage sees a text, when it has yet to learn its words; `again` is the second to fifth. Prints a
table and writes first_stage.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

from tokenizers import Tokenizer

from prerouter import text
from prerouter.files import shipped
from prerouter.local import LocalClassifier

LENGTHS = {25: 400, 500: 100, 2000: 40}  # tokens: texts
START = (
    "import time; t = time.perf_counter(); from prerouter import text; from pathlib import Path; "
    "from prerouter.local import LocalClassifier; "
    "LocalClassifier.load(Path({folder!r})).score(text.render('What is the capital of France?')); "
    "seconds = time.perf_counter() - t; "
    "print(seconds, int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) / 1024)"
)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Speed of the first stage against its tokeniser.")
    parser.add_argument("data", type=Path, metavar="DATA_DIR", help="the folder that holds requests/unlabelled.jsonl")
    parser.add_argument("model", type=Path, metavar="MODEL_DIR", nargs="?", default=shipped("models/default"))
    options = parser.parse_args()
    path = options.data / "requests" / "unlabelled.jsonl"
    if not path.is_file():
        print(
            f"first_stage: error: data file is missing ({path}); pass the folder that holds requests/", file=sys.stderr
        )
        return 2
    texts = [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]
    found = {
        "machine": f"{platform.processor() or platform.machine()}, one core, Python {platform.python_version()}",
        "microseconds": {str(n): measure(options.model, cut(options.model, texts, n, k)) for n, k in LENGTHS.items()},
        "bulk_per_second": bulk(options.model, texts),
        "start": start(options.model),
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    return 0


def tokeniser(folder: Path) -> Tokenizer:
    """The first stage's."""
    return Tokenizer.from_file(str(folder / "stages" / "0" / "encoder" / "tokenizer.json"))


def cut(folder: Path, texts: Sequence[str], n_tokens: int, n_texts: int) -> list[str]:
    """`n_texts` different texts of about `n_tokens` tokens each."""
    encoding = tokeniser(folder).encode("\n".join(texts[: 40 + n_tokens * n_texts // 20]), add_special_tokens=False)
    joined, spans = "\n".join(texts[: 40 + n_tokens * n_texts // 20]), encoding.offsets
    starts = range(0, min(len(spans) - n_tokens, n_tokens * n_texts), n_tokens)
    return [joined[spans[i][0] : spans[i + n_tokens - 1][1]] for i in starts]


def measure(folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Medians in microseconds."""
    reader, classifier = tokeniser(folder), LocalClassifier.load(folder)
    requests = [text.render(words) for words in texts]
    classifier.score(text.render("warm up the interpreter"))
    reader.encode("warm up the tokeniser", add_special_tokens=False)
    tokenising, fresh, again, rendering = [], [], [], []
    for words, request in zip(texts, requests, strict=True):
        tokenising.append(timed(lambda words=words: reader.encode(words, add_special_tokens=False).ids))
        fresh.append(timed(lambda request=request: classifier.score(request)))
    for _ in range(4):
        for words, request in zip(texts, requests, strict=True):
            tokenising.append(timed(lambda words=words: reader.encode(words, add_special_tokens=False).ids))
            again.append(timed(lambda request=request: classifier.score(request)))
            rendering.append(timed(lambda words=words: text.render(words)))
    middle = {"tokenising": tokenising, "fresh": fresh, "again": again, "render": rendering}
    out: dict[str, Any] = {name: round(statistics.median(values), 1) for name, values in middle.items()}
    out |= {
        "fresh_ratio": round(out["fresh"] / out["tokenising"], 2),
        "again_ratio": round(out["again"] / out["tokenising"], 2),
    }
    return out | {"texts": len(texts)}


def timed(work: Callable[[], object]) -> float:
    """Microseconds of one call."""
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1e6


def bulk(folder: Path, texts: Sequence[str]) -> dict[str, int]:
    """Requests a second, rendering included, of 4,000 different texts of 25 tokens: the first time, and again."""
    short, classifier = cut(folder, texts, 25, 4000), LocalClassifier.load(folder)
    times = [timed(lambda: classifier.score_many([text.render(words) for words in short])) for _ in range(4)]
    return {
        "fresh": round(len(short) / times[0] * 1e6),
        "again": round(len(short) / statistics.median(times[1:]) * 1e6),
    }


def start(folder: Path) -> dict[str, float]:
    """Seconds from import to the first decision and peak megabytes, each the median of five fresh processes."""
    code = START.format(folder=str(folder))
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ
        ).stdout.split()
        for _ in range(5)
    ]
    seconds, megabytes = zip(*((float(a), float(b)) for a, b in runs), strict=True)
    return {"seconds": round(statistics.median(seconds), 3), "megabytes": round(statistics.median(megabytes), 1)}


if __name__ == "__main__":
    sys.exit(main())
