"""Sections as text and as a page, in a real browser where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import browser, chromium

from prerouter.errors import ConfigError
from prerouter.reportview import SHOWN, WIDTH, Section, count, dollars, percent, to_text, write_html
from prerouter.svg import Axis, Chart, Line, Times

DAY = 86_400
TIMES = Times("UTC", 1_790_000_000, 1_790_000_000 + 30 * DAY)
CHART = Chart(TIMES, Axis("share", 0, 1, True), [Line("a", [(TIMES.low, 0.2), (TIMES.high, 0.7)], "blue")])
WIDE = Section(
    "Wide <b>", "note & more", tuple("abcdefghij"), [tuple(f"cell {i} {j}" for j in range(10)) for i in range(3)],
    [("Chart", CHART, "<i>")] * 2,
)  # fmt: skip


def test_a_table_in_a_terminal() -> None:
    found = to_text(
        "Title", [Section("One", "About it.", ("", "n", "share"), [("x", "1", "50.0 %"), ("yy", "10", "5.0 %")])]
    )
    assert found == "Title\n\nOne\n  About it.\n       n   share\n  x    1  50.0 %\n  yy  10   5.0 %"


def test_long_tables_are_cut_and_long_notes_wrapped_in_a_terminal_only(tmp_path: Path) -> None:
    section = Section("One", "word " * 100, ("", "n"), [(str(i), str(i)) for i in range(SHOWN + 5)])
    text = to_text("Title", [section])
    assert "and 5 more" in text
    assert max(map(len, text.splitlines())) <= WIDTH
    write_html(tmp_path / "r.html", "Title", [section])
    assert (tmp_path / "r.html").read_text().count("<tr>") == SHOWN + 6


def test_an_empty_section_is_not_shown(tmp_path: Path) -> None:
    assert to_text("Title", [Section("Nothing", header=("a", "b"))]) == "Title"
    write_html(tmp_path / "r.html", "Title", [Section("Nothing", header=("a", "b"))])
    assert "Nothing" not in (tmp_path / "r.html").read_text()


def test_everything_is_escaped_and_no_input_is_overwritten(tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    write_html(page, "T <script>", [WIDE])
    text = page.read_text()
    assert "<script" not in text
    assert "Wide &lt;b&gt;" in text
    assert "&lt;i&gt;" in text
    with pytest.raises(ConfigError, match="overwrite what is read"):
        write_html(page, "T", [WIDE], sources=[str(page)])


@pytest.mark.skipif(
    chromium() is None, reason="no Chromium: apt-get install chromium, or name one in PREROUTER_TEST_BROWSER"
)
def test_the_page_fits_narrow_and_dark_screens(tmp_path: Path) -> None:
    write_html(tmp_path / "r.html", "Title", [WIDE])
    with browser(tmp_path / "profile") as opened:
        page = opened.page(f"file://{tmp_path}/r.html")
        page.wait("document.querySelector('svg')")
        for width, scheme in ((1200, "light"), (360, "dark")):
            size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
            page.command("Emulation.setDeviceMetricsOverride", size)
            page.command(
                "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            )
            assert page.value("document.documentElement.scrollWidth <= innerWidth"), width
            ink, paper = (
                page.value(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor")
            )
            bright = [sum(map(int, color[4:-1].split(","))) for color in (ink, paper)]
            assert (bright[0] > bright[1]) == (scheme == "dark")
        assert page.complaints == []


def test_times_have_few_round_ticks() -> None:
    for days, at_most in ((0.2, 7), (3, 7), (10, 7), (30, 7), (400, 7), (5000, 9)):
        axis = Times("", 1_790_000_000, 1_790_000_000 + days * DAY)
        ticks = axis.ticks()
        assert 2 <= len(ticks) <= at_most, days
        assert all(axis.low <= tick <= axis.high for tick in ticks)
        assert all(tick % 3600 == 0 for tick in ticks)
        assert len({axis.shown(tick) for tick in ticks}) == len(ticks)


def test_numbers_for_people() -> None:
    assert [percent(x) for x in (None, 0.1234, 1.0)] == ["-", "12.3 %", "100.0 %"]
    assert [dollars(x) for x in (None, 0, 0.00012, 12.3456, 1234.5, -2)] == [
        "-",
        "0.00",
        "0.0001",
        "12.35",
        "1,234.50",
        "-2.00",
    ]
    assert [count(x) for x in (None, 0, 1234)] == ["-", "0", "1,234"]
