"""Plots of a model folder's figures for MLflow, with matplotlib, which MLflow brings along."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LABELS = 40  # in one plot: those with the most rows
SHARES = ("accuracy", "coverage", "disagreement", "under_routing", "over_routing", "ece", "novel_coverage")
OF_LABEL = ("recall", "coverage", "disagreement")


def drawn(figures: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    """(name, plot) of what the figures hold: shares with intervals, each label, cost against quality."""
    shares: dict[str, float] = {key: figures[key] for key in SHARES if isinstance(figures.get(key), int | float)}
    if shares:
        yield "shares", _shares(shares, figures.get("intervals") or {})
    if figures.get("per_label"):
        yield "labels", _labels(figures["per_label"])
    if figures.get("cost") and figures.get("enough"):
        yield "cost", _plane(figures["cost"], figures["enough"])


def _axes(title: str, height: float) -> tuple[Figure, Axes]:
    # Not through pyplot, which would look for a display and keep every figure.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.add_subplot(title=title)
    axes.grid(alpha=0.3)
    return figure, axes


def _shares(shares: dict[str, float], intervals: Mapping[str, Any]) -> Figure:
    figure, axes = _axes("Shares, with their intervals", 1 + 0.5 * len(shares))
    for place, (name, value) in enumerate(reversed(shares.items())):
        low, high = intervals.get(name) or (value, value)
        axes.errorbar(value, place, xerr=[[max(value - low, 0)], [max(high - value, 0)]], fmt="o", color="C0")
        axes.annotate(f"{value:.1%}", (value, place), xytext=(0, 6), textcoords="offset points", ha="center")
    axes.set(
        xlim=(-0.03, 1.03),
        ylim=(-0.5, len(shares) - 0.3),
        yticks=range(len(shares)),
        yticklabels=[name.replace("_", " ") for name in reversed(shares)],
    )
    return figure


def _labels(per_label: Mapping[str, Mapping[str, Any]]) -> Figure:
    names = sorted(per_label, key=lambda name: -per_label[name]["n"])[:MAX_LABELS]
    left_out = f", the {MAX_LABELS} of {len(per_label)} with the most rows" if len(per_label) > len(names) else ""
    figure, axes = _axes(f"Labels{left_out}", 1.5 + 0.45 * len(names))
    for i, key in enumerate(OF_LABEL):
        values = [per_label[name].get(key) or 0.0 for name in names]
        axes.barh([place + 0.25 * (i - 1) for place in range(len(names))], values, 0.25, label=key)
    axes.set(
        xlim=(0, 1), yticks=range(len(names)), yticklabels=[f"{name} ({per_label[name]['n']:,})" for name in names]
    )
    axes.invert_yaxis()
    figure.legend(loc="outside right upper")  # inside it would cover bars
    return figure


def _plane(cost: Mapping[str, float], enough: Mapping[str, float]) -> Figure:
    figure, axes = _axes("Cost and quality of every policy", 5)
    width, height = max(cost.values()) or 1.0, (max(enough.values()) - min(enough.values())) or 1.0
    named: list[tuple[float, float]] = []
    for name, usd in sorted(cost.items(), key=lambda item: item[1]):
        at = (usd / width, enough[name] / height)
        crowd = sum(at[0] - x < 0.25 and abs(at[1] - y) < 0.06 for x, y in named)  # names that this one would cover
        named.append(at)
        axes.scatter(usd, enough[name], color="C0" if name == "prerouter" else "C7")
        axes.annotate(name, (usd, enough[name]), xytext=(7, -4 - 13 * crowd), textcoords="offset points")
    axes.set(xlabel="US dollars per 1,000 requests", ylabel="share sent to at least the tier that its label needs")
    axes.set_xlim(0, 1.25 * width)
    return figure
