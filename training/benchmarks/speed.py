"""Speed of both stages: python training/benchmarks/speed.py DATA_DIR [MODEL_DIR]

Texts are those of DATA_DIR/requests/unlabelled.jsonl, joined and cut to a number of tokens. Everything is timed in turn
on every text, in this one run, on one core. The first stage stands beside the `tokenizers` library's own `encode`:
`fresh` is the first time that the stage sees a text, when it has yet to learn its words; `again` is the second to
fifth. Prints a table and writes speed.json beside this file.
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
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

from tokenizers import Tokenizer

from prerouter import modelfolder, text
from prerouter.encoder import load_encoder
from prerouter.files import shipped
from prerouter.local import LocalClassifier
from prerouter.modelfolder import FolderModel

LENGTHS = {25: 400, 500: 100, 2000: 40}  # tokens: texts
SECOND_LENGTHS = {25: 200, 190: 100}  # 190 is where the second stage cuts
START = (
    "import time; t = time.perf_counter(); from prerouter import text; from pathlib import Path; "
    "from prerouter.local import LocalClassifier; "
    "LocalClassifier.load(Path({folder!r})).score(text.render({request!r})); "
    "seconds = time.perf_counter() - t; "
    "print(seconds, int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) / 1024)"
)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Speed of both stages.")
    parser.add_argument("data", type=Path, metavar="DATA_DIR", help="the folder that holds requests/unlabelled.jsonl")
    parser.add_argument("model", type=Path, metavar="MODEL_DIR", nargs="?", default=shipped("models/default"))
    options = parser.parse_args()
    path = options.data / "requests" / "unlabelled.jsonl"
    if not path.is_file():
        print(f"speed: error: data file is missing ({path}); pass the folder that holds requests/", file=sys.stderr)
        return 2
    texts = [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]
    model = modelfolder.load(options.model)
    first, *second = (alone(model, i) for i in range(len(model.stages)))
    found: dict[str, Any] = {
        "machine": f"{platform.processor() or platform.machine()}, one core, Python {platform.python_version()}",
        "first_stage_us": {
            str(n): measure(options.model, first, cut(options.model, texts, n, k)) for n, k in LENGTHS.items()
        },
        "first_stage_per_second": bulk(first, cut(options.model, texts, 25, 4000)),
        "start": start(options.model, "What is the capital of Mongolia?"),
    }
    if second:
        lengths = {n: cut(options.model, texts, n, k) for n, k in SECOND_LENGTHS.items()}
        found["second_stage_ms"] = {str(n): milliseconds(second[0], short) for n, short in lengths.items()}
        found["second_stage_per_second"] = bulk(second[0], lengths[25])["again"]
        found["start_with_second_stage"] = start(options.model, "Why does the lamp hum when it is switched off?")
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


def alone(model: FolderModel, stage: int) -> LocalClassifier:
    """A classifier of this stage only."""
    one = model.stages[stage]
    return LocalClassifier(replace(model, stages=(one,)), [load_encoder(one.encoder)])


def milliseconds(classifier: LocalClassifier, texts: Sequence[str]) -> float:
    """Median time of one decision of the second stage."""
    requests = [text.render(words) for words in texts]
    classifier.score(requests[0])
    return round(
        statistics.median(timed(lambda request=request: classifier.score(request)) for request in requests) / 1000, 2
    )


def measure(folder: Path, classifier: LocalClassifier, texts: Sequence[str]) -> dict[str, Any]:
    """Medians in microseconds."""
    reader = tokeniser(folder)
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


def bulk(classifier: LocalClassifier, texts: Sequence[str]) -> dict[str, int]:
    """Requests a second, rendering included: the first time, and again."""
    times = [timed(lambda: classifier.score_many([text.render(words) for words in texts])) for _ in range(4)]
    again = statistics.median(times[1:])
    return {"fresh": round(len(texts) / times[0] * 1e6), "again": round(len(texts) / again * 1e6)}


def start(folder: Path, request: str) -> dict[str, float]:
    """Seconds from import to the first decision and peak megabytes, each the median of five fresh processes."""
    code = START.format(folder=str(folder), request=request)
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
