"""A log with bounds stays within them, while it takes rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from store_help import append, ids, open_log, wait_until

from prerouter.errors import ConfigError
from prerouter.routelog import RowLabel
from prerouter.settings import load_settings

DAY = 86_400
FEATURES = {"features": np.random.default_rng(0).normal(size=384).astype(np.float32), "fingerprint": "f" * 12}


def test_rows_older_than_keep_days_go_with_what_they_got(log_url: str) -> None:
    now = [0.0]
    with open_log(log_url, clock=lambda: now[0]) as log:
        for i in range(1_300):
            log.add_label(append(log, i, FEATURES), RowLabel("simple", "feedback"))
        log.add_label("nobody", RowLabel("simple", "feedback"))
        assert log.flush(60) == 1_300
        now[0] = 20.0 * DAY
        append(log, "young")
        log.flush(60)
    now[0] = 31.0 * DAY
    with open_log(log_url, clock=lambda: now[0], keep_days=30) as log:
        append(log, "new")
        wait_until(lambda: log.stats().labels == {})
        assert ids(log) == ["young", "new"]
        assert log.stats().fingerprints == {}
        assert sum(each.rows for each in log.rollups()) == 1_302


def test_nothing_goes_without_a_bound(log_url: str) -> None:
    now = [0.0]
    with open_log(log_url, clock=lambda: now[0]) as log:
        append(log, "old")
        log.flush(60)
        now[0] = 10_000.0 * DAY
    with open_log(log_url, clock=lambda: now[0]) as log:
        append(log, "new")
        log.flush(60)
        log.close()
        assert ids(log) == ["old", "new"]


def test_a_file_that_is_too_large_loses_its_oldest_rows_and_shrinks(tmp_path: Path) -> None:
    path = tmp_path / "routes.db"
    with open_log(path) as log:
        for i in range(4_000):
            append(log, i, FEATURES)
        assert log.flush(60) == 4_000
    assert path.stat().st_size > 4_000_000
    with open_log(path, max_gb=0.003) as log:
        append(log, "new")
        wait_until(lambda: log.stats().bytes < 3_300_000)
        kept = ids(log)
    assert kept == [*map(str, range(4_001 - len(kept), 4_000)), "new"]
    assert 1_000 < len(kept) < 3_500


def test_bounds_come_from_the_settings(tmp_path: Path) -> None:
    (tmp_path / "prerouter.toml").write_text("[log]\nkeep_days = 14\nmax_gb = 2.5\n")
    log = load_settings(tmp_path).log
    assert (log.keep_days, log.max_gb) == (14, 2.5)
    (tmp_path / "prerouter.toml").write_text("[log]\nkeep_days = -1\n")
    with pytest.raises(ConfigError, match="keep_days"):
        load_settings(tmp_path)
    (tmp_path / "prerouter.toml").write_text("")
    assert load_settings(tmp_path, environ={"PREROUTER_LOG__MAX_GB": "1"}).log.max_gb == 1
