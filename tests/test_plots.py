"""Plots for MLflow: of what the figures hold, as PNG."""

from __future__ import annotations

import io

import pytest

from prerouter import plots

FIGURES = {
    "accuracy": 0.8,
    "coverage": 0.5,
    "disagreement": None,
    "intervals": {"accuracy": [0.7, 0.9]},
    "per_label": {f"label {i}": {"n": i, "recall": 0.5, "coverage": 0.4, "disagreement": None} for i in range(60)},
    "cost": {"always-opus": 10.0, "prerouter": 3.0},
    "enough": {"always-opus": 1.0, "prerouter": 0.97},
}


def test_every_kind_can_be_drawn() -> None:
    found = dict(plots.drawn(FIGURES))
    assert list(found) == ["shares", "labels", "cost"]
    for figure in found.values():
        out = io.BytesIO()
        figure.savefig(out, format="png")
        assert out.getvalue().startswith(b"\x89PNG")
    assert "the 40 of 60" in found["labels"].axes[0].get_title()


@pytest.mark.parametrize(
    "figures", [{}, {"per_label": {}, "cost": {}, "accuracy": None}, {"accuracy": [0.1, 0.2, 0.3]}]
)
def test_what_is_not_there_is_not_drawn(figures: dict[str, object]) -> None:
    assert list(plots.drawn(figures)) == []
