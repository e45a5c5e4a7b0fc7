"""Rows of the routing log for `prerouter review`, where texts are kept, and the reviewer's labels back into the log.

Both files are in the state folder and hold texts, so they are deleted as soon as the log has the labels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prerouter.errors import ConfigError
from prerouter.examples import read_bodies
from prerouter.files import appearing
from prerouter.reviewset import REVIEWER
from prerouter.routelog import LogRow, RouteLog, RowLabel
from prerouter.settings import Settings
from prerouter.taxonomy import Taxonomy


@contextmanager
def reviewable(settings: Settings, taxonomy: Taxonomy) -> Iterator[tuple[Path, Path]]:
    """The file of rows to review, and the one for the reviewed ones, whose labels go to the log at the end.

    What a killed review left is taken up again. Raises ConfigError when no row has a text.
    """
    folder = settings.state_dir / "review"
    rows, reviewed = folder / "log.jsonl", folder / "log.reviewed.jsonl"
    with RouteLog.open(settings=settings) as log:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _write(log, rows, taxonomy)
            yield rows, reviewed
        finally:
            if _taken_in(log, reviewed):
                for file in (rows, reviewed):
                    file.unlink(missing_ok=True)


def _write(log: RouteLog, file: Path, taxonomy: Taxonomy) -> None:
    n = 0
    with appearing(file) as out:
        for row in log.rows():
            if row.text and row.decision.label in taxonomy.names and not _reviewed(row):
                print(json.dumps(_line(row), ensure_ascii=False), file=out)
                n += 1
        if not n:
            step = "set log.text = true, which keeps the texts of requests from then on"
            raise ConfigError("no row of the log has a text to review", where=log.where, next_step=step)


def _line(row: LogRow) -> dict[str, object]:
    made = row.decision
    by = row.labelled_by or (f"model folder {made.model_folder_id}" if made.decided_by == "local" else made.decided_by)
    return {
        "id": made.id,
        "seq": row.seq,
        "text": row.text,
        "label": made.label,
        "confidence": made.confidence,
        "labelled_by": by,
    }


def _reviewed(row: LogRow) -> bool:
    return any(label.origin == "review" for label in row.labels)


def _taken_in(log: RouteLog, reviewed: Path) -> bool:
    """Add the labels to the log; True when they are there, or there are none."""
    if not reviewed.is_file():
        return True
    found = [(int(row["seq"]), str(row["label"])) for _, row in read_bodies(reviewed)]
    before = log.stats().labels.get("review", 0)
    for seq, label in found:
        row = log.row(seq)
        if row and not any(given.origin == "review" and given.label == label for given in row.labels):
            log.add_label(seq, RowLabel(label, "review", labelled_by=REVIEWER))
        else:
            before -= 1
    log.flush(30)
    return log.stats().labels.get("review", 0) >= before + len(found)
