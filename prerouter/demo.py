"""`prerouter demo`: requests labelled, trained on and routed without a key.

An offline stand-in answers in place of Claude Haiku, with the labels that the requests' authors gave them, and says so.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prerouter.errors import MissingExtraError
from prerouter.records import Decision
from prerouter.text import render

if TYPE_CHECKING:
    from prerouter.labelling import LabelResult
    from prerouter.routecase import Body
    from prerouter.router import PreRouter
    from prerouter.training import TrainResult

CHARS_PER_TOKEN = 3.1  # English prose has about 4; models since 4.7 count 30 % more tokens (CLAUDE_API: section 2)
STAND_IN_CONFIDENCE = 0.9
HISTORY = 240  # requests that are labelled and trained on


@dataclass(frozen=True, slots=True)
class Shown:
    """One demo request: its text, the label its author gave it, and what was decided."""

    text: str
    body: Body
    author: str
    decision: Decision

    @property
    def simulated(self) -> bool:
        return self.decision.decided_by == "llm"


def run_demo(options: argparse.Namespace) -> int:
    """Exit code of `prerouter demo`."""
    rows, history = _rows(Path(__file__).with_name("demo.jsonl")), _history()
    with _router(rows + history) as (router, client):
        labelled, trained = _learned(router, client, history)
        shown = [_decided(router, row) for row in rows]
        money, assumed = _money(router, shown)
        if options.json:
            decisions = [s.decision.to_json() | {"author": s.author, "simulated": s.simulated} for s in shown]
            learned = {"labelled": labelled.to_json(), "trained": trained.to_json() if trained else None}
            print(json.dumps(learned | {"decisions": decisions, "usd_per_1000": money}, ensure_ascii=False))
        else:
            print(_learning(labelled, trained))
            _print(router, shown)
            print(f"\nUS dollars per 1,000 requests like these; {assumed}:")
            for name, dollars in money.items():
                print(f"  {name:22} {dollars:8.2f}")
            print("\nprerouter: next: prerouter route 'your request', prerouter init, or the README", file=sys.stderr)
    return 0


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _history() -> list[dict[str, Any]]:
    """Short requests that the stand-in can tell by their text; of heldout, for the shipped encoder knows the others."""
    from prerouter.files import shipped

    plain = [row for row in _rows(shipped("labels/heldout.jsonl")) if len(row.get("text", "x" * 600)) < 600]
    return plain[:HISTORY]


@contextmanager
def _router(rows: list[dict[str, Any]]) -> Iterator[tuple[PreRouter, Any]]:
    """A router in a temporary workspace, and the stand-in's client."""
    from prerouter.files import shipped
    from prerouter.routelog import RouteLog
    from prerouter.router import PreRouter
    from prerouter.sdk import offline_client
    from prerouter.settings import Settings

    with tempfile.TemporaryDirectory(prefix="prerouter-demo-") as folder:
        settings, source = Settings(workspace=Path(folder)), shipped("models/default")
        with (
            RouteLog.open(settings=settings) as log,
            offline_client(_stand_in(rows)) as client,
            PreRouter.load(source, client=client, settings=settings, log=log) as router,
        ):
            yield router, client


def _learned(router: PreRouter, client: Any, history: list[dict[str, Any]]) -> tuple[LabelResult, TrainResult | None]:
    """The history labelled, and a model trained on it; None without the extra that training needs."""
    from prerouter.labelling import label
    from prerouter.training import train

    folder = router.settings.workspace or Path()
    source = folder / "history.jsonl"
    source.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in history), "utf-8")
    labelled = label(source, folder / "labelled.jsonl", client=client, redact=False, settings=router.settings)
    try:
        out = folder / "models" / "mine"
        return labelled, train(labelled.output, out, encoder=("static",), track=False, settings=router.settings)
    except MissingExtraError:
        return labelled, None


def _learning(labelled: LabelResult, trained: TrainResult | None) -> str:
    """What was labelled and trained, for people."""
    shares = ", ".join(f"{name} {n}" for name, n in labelled.distribution.items())
    lines = [f"Labelled {labelled.labelled} requests (simulated): {shares}; ${labelled.cost_usd:.4f} at list prices."]
    if trained is None:
        lines.append("Not trained: scikit-learn is missing; pip install 'prerouter[train]'")
    else:
        made = trained.model.certificate
        needed = f"closed: some {made.needed_rows:,} more labelled requests would open it"
        right = trained.figures.to_json()["accuracy"]
        lines.append(
            f"Trained a model on them in {trained.seconds:.1f} s: {right:.0%} right on {made.n_certify} requests that "
            f"it did not learn from, gate {'open' if made.valid else needed}."
        )
    return "\n".join([*lines, "Routed with the shipped model:\n"])


def _stand_in(rows: list[dict[str, Any]]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Answers like the Messages API, with the label that the request's author gave it."""

    def answer(body: Mapping[str, Any]) -> dict[str, Any]:
        asked = body["messages"][0]["content"]
        # The longest match, since a short request may be part of a longer one.
        row = max((row for row in rows if _text(row) in asked), key=lambda row: len(_text(row)))
        said = json.dumps({"label": row["label"], "confidence": STAND_IN_CONFIDENCE})
        return {
            "id": "msg_simulated",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": [{"type": "text", "text": said}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": _tokens(body["system"] + asked), "output_tokens": _tokens(said)},
        }

    return answer


def _decided(router: PreRouter, row: dict[str, Any]) -> Shown:
    body = row.get("text") or {key: row[key] for key in ("system", "messages") if key in row}
    return Shown(_text(row), body, row["label"], router.decide(body, request_id=row["id"]))


def _text(row: dict[str, Any]) -> str:
    return str(row.get("text") or row["messages"][-1]["content"])


def _tokens(text: str) -> int:
    return round(len(text) / CHARS_PER_TOKEN)


def _money(router: PreRouter, shown: list[Shown]) -> tuple[dict[str, float], str]:
    """Dollars per 1,000 requests like these for each policy, the classifier included; and what is assumed."""
    from prerouter.costs import ABSTAINED, PriceBook

    book = PriceBook.load(router.taxonomy, router.settings)
    if book is None:  # never: the shipped labels have tiers
        return {}, ""
    index = router.taxonomy.index
    truth = np.array([index(s.author) for s in shown])
    local = np.array([index(s.decision.label) if s.decision.decided_by == "local" else ABSTAINED for s in shown])
    bills = book.bills([render(s.body) for s in shown], truth, local)
    return {name: round(1000 * float(bill.usd.mean()), 4) for name, bill in bills.items()}, book.assumptions()


def _print(router: PreRouter, shown: list[Shown]) -> None:
    print(f"{_column('request')}  {'label':8}    {'tier':6}  {'decided by':24} confidence")
    for s in shown:
        print(_line(s))
    local = [s for s in shown if s.decision.decided_by == "local"]
    agree = sum(s.decision.label == s.author for s in local)
    times = sorted(s.decision.seconds for s in local)
    print(f"\n{len(local)} of {len(shown)} decided locally, {agree} of them as their author labelled them", end="")
    print(f", median {times[len(times) // 2] * 1e6:,.0f} microseconds" if times else "")
    print("The others would go to Claude Haiku; here an offline stand-in gave the author's label (simulated).")
    if local:
        print(f"\nWhy: {textwrap.shorten(local[0].text, 70)}\n{router.explain(local[0].body).to_text()}")


def _line(s: Shown) -> str:
    by = "Haiku (simulated)" if s.simulated else f"{s.decision.decided_by}, {s.decision.reason}"
    route = f"{s.decision.label:8} -> {s.decision.tier or '-':6}"
    return f"{_column(s.text)}  {route}  {by:24} {s.decision.confidence:.2f}"


def _column(text: str, width: int = 48) -> str:
    """`text` on one line in `width` terminal columns; East Asian wide characters take two (Unicode TR 11)."""
    line, used = "", 0
    for character in " ".join(text.split()):
        columns = 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if used + columns > width - 1:
            line, used = line + "…", used + 1
            break
        line, used = line + character, used + columns
    return line + " " * (width - used)
