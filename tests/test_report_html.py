"""The HTML report: well formed, self-contained, with the numbers of the figures and without a request's text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_local import CERTIFICATE, make_model, make_stage, write_encoder

from prerouter import figures, modelfolder, report_html, text
from prerouter.costs import PriceBook
from prerouter.local import LocalClassifier
from prerouter.modelfolder import FolderModel
from prerouter.settings import Settings
from prerouter.taxonomy import Taxonomy

TABLE = [("easy please", 0, 60), ("hard please", 2, 30), ("easy the task", 1, 6), ("do this now", 1, 24), ("zzz", 0, 4)]
VOID = {"meta", "circle", "rect", "line", "polyline", "polygon"}


class Checked(HTMLParser):
    """Fails on tags that do not match; collects what a page loads, and its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [f"{tag} {key}" for key, _ in attrs if key in ("src", "href") or key.startswith("on")]
        self.loads += [tag] if tag in ("script", "link", "iframe", "object") else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def report(folder: Path, model: FolderModel, table: list[tuple[str, int, int]] = TABLE, **kind: object) -> str:
    modelfolder.save(folder / "model", model, "# card\n")
    local = LocalClassifier.load(folder / "model")
    rows = [(words, truth) for words, truth, times in table for _ in range(times)]
    requests, truth = [text.render(words) for words, _ in rows], [truth for _, truth in rows]
    seen, book = figures.look(local, requests, truth), PriceBook.load(model.taxonomy, Settings())
    found = figures.summarise(seen, local, figures.bills(seen, requests, book))
    report_html.write(folder / "r.html", found, local, seen, requests, **kind)  # type: ignore[arg-type]
    page = (folder / "r.html").read_text("utf-8")
    checked = Checked()
    checked.feed(page)
    assert (checked.open, checked.loads) == ([], [])
    assert not re.search(r"https?://|url\(|@import|\bnan\b|\binf\b", page, re.IGNORECASE)
    return page


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return write_encoder(tmp_path / "encoder")


def test_every_chart_and_table_is_there(tmp_path: Path, encoder: Path) -> None:
    page = report(tmp_path, make_model(make_stage(encoder)), assumptions="400 tokens of answer")
    for title in ("Risk and coverage", "Reliability", "Cost and quality"):
        assert f'aria-label="{title}"' in page
    for title in ("Figures", "Gates", "Cost of every policy", "Confusion", "Labels", "Stages"):
        assert f"<h2>{title}</h2>" in page
    assert page.count("<svg ") == 3
    assert "400 tokens of answer" in page
    assert "Gate open" in page


def test_its_numbers_are_those_of_the_figures(tmp_path: Path, encoder: Path) -> None:
    page = report(tmp_path, make_model(make_stage(encoder)))
    assert "<tr><td>coverage</td><td>77.4%</td>" in page  # 96 of 124
    assert "<tr><td>disagreement</td><td>6.2%</td>" in page  # 6 of 96
    assert "<td>in use</td><td>96</td><td>77.4%</td><td>6</td><td>6.2%</td>" in page
    assert "124 labelled requests" in page


def test_no_request_text_is_in_it(tmp_path: Path, encoder: Path) -> None:
    secret = [("my card is 4111 1111 please", 0, 3), *TABLE]
    page = report(tmp_path, make_model(make_stage(encoder)), secret, sources=["/home/ana/rows.jsonl"])
    assert "4111" not in page
    assert "ana" not in page
    assert "rows.jsonl" in page


def test_a_closed_gate_is_said_first(tmp_path: Path, encoder: Path) -> None:
    closed = replace(CERTIFICATE, valid=False, needed_rows=4321)
    page = report(tmp_path, make_model(make_stage(encoder, threshold=None), certificate=closed))
    assert "Gate closed" in page
    assert "4,321 more labelled requests" in page
    assert "<td>in use</td>" not in page


def test_many_unordered_labels_show_the_most_confused_pairs(tmp_path: Path, encoder: Path) -> None:
    stage = make_stage(encoder)
    names = [f"intent <{i:02d}>" for i in range(15)]
    head = stage.head
    grown = replace(
        head,
        weights=head.weights[[0, 1, 2] + [1] * 12],
        bias=head.bias[[0] * 15],
    )
    certificate = replace(CERTIFICATE, max_under=None, upper_under=None, errors_under=None)
    model = make_model(replace(stage, head=grown), certificate=certificate)
    page = report(tmp_path, replace(model, taxonomy=Taxonomy.inferred(names)))
    assert "taken for" in page
    assert "intent &lt;01&gt;" in page
    assert "weaker" not in page
    assert page.count("<svg ") == 2  # no tiers, no dollars


def test_names_of_labels_are_escaped_in_the_matrix(tmp_path: Path, encoder: Path) -> None:
    model = make_model(make_stage(encoder))
    names = {"simple": "<b>simple", "moderate": "moderate", "complex": "complex & more"}
    labels = [label | {"name": names[label["name"]]} for label in model.taxonomy.to_dict()["labels"]]
    page = report(tmp_path, replace(model, taxonomy=Taxonomy.from_dict(model.taxonomy.to_dict() | {"labels": labels})))
    assert "<b>" not in page
    assert "complex &amp; more" in page


def test_a_single_row_makes_a_report(tmp_path: Path, encoder: Path) -> None:
    assert "<p>1 labelled request from" in report(tmp_path, make_model(make_stage(encoder)), [("easy please", 0, 1)])
