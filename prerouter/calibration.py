"""How far the classifier's stated confidence can be taken at its word, from labelled rows.

A row says so when it has both `stated`, the mean confidence that the votes for its label stated, and `confidence`, the
share of all votes that they were (`prerouter label --votes 3`); or when a person looked at it (`prerouter review`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prerouter.errors import ConfigError, DataError
from prerouter.files import read_jsonl
from prerouter.taxonomy import Taxonomy

LEAST = 30  # rows below which nothing is corrected: a share of fewer says little (its 95 % interval is wider than 0.3)


def calibration_of(taxonomy: Taxonomy) -> Callable[[float], float]:
    """Stated confidence -> share of right answers, after the file that the taxonomy names; without one unchanged.

    Raises ConfigError for a file that cannot be read or has fewer than LEAST such rows; DataError for a broken line.
    """
    handoff = taxonomy.handoff
    if handoff is None or handoff.calibration is None:
        return float
    file = handoff.folder / handoff.calibration
    points = sorted(_points(file))
    if len(points) < LEAST:
        step = f"label at least {LEAST} rows with --votes 3, or review some"
        raise ConfigError(f"{len(points)} rows tell how sure the classifier is", where=str(file), next_step=step)
    levels = isotonic(points)
    return lambda stated: _at(levels, stated)


def isotonic(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The non-decreasing step function nearest to sorted (stated, right) points, as (stated up to, share).

    Points of one stated value make one step. Pool adjacent violators (Ayer et al. 1955; for classifiers Zadrozny and
    Elkan 2002).
    """
    pools: list[tuple[float, float, int]] = []  # stated up to, sum, rows
    for stated, right in points:
        pools.append((stated, right, 1))
        while len(pools) > 1 and (pools[-2][0] == pools[-1][0] or _share(pools[-2]) >= _share(pools[-1])):
            _, total, rows = pools.pop(-2)
            upper, more, count = pools.pop()
            pools.append((upper, total + more, rows + count))
    return [(pool[0], _share(pool)) for pool in pools]


def _share(pool: tuple[float, float, int]) -> float:
    return pool[1] / pool[2]


def _at(levels: list[tuple[float, float]], stated: float) -> float:
    return next((share for upper, share in levels if stated <= upper), levels[-1][1])


def _points(file: Path) -> Iterator[tuple[float, float]]:
    try:
        with open(file, "rb") as lines:
            for _, row in read_jsonl(lines, file):
                if isinstance(row, DataError):
                    raise row
                if (point := _point(row)) is not None:
                    yield point
    except OSError as error:
        step = "check `calibration` in taxonomy.toml"
        raise ConfigError(f"cannot read it: {error.strerror}", where=str(file), next_step=step) from error


def _point(row: Mapping[str, Any]) -> tuple[float, float] | None:
    before = row.get("reviewed")
    stated, right = row.get("stated"), row.get("confidence")
    if isinstance(before, Mapping):
        stated, right = before.get("stated", before.get("confidence")), float(before.get("label") == row.get("label"))
    if not (isinstance(stated, int | float) and isinstance(right, int | float)):
        return None
    return (stated, right) if 0 <= stated <= 1 and 0 <= right <= 1 else None
