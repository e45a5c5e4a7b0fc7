"""A report as sections that are shown twice: as tables in a terminal, as one HTML page with charts."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from prerouter import page
from prerouter.svg import Chart

WIDTH = 110  # characters of a line of text in a terminal
SHOWN = 30  # rows of a table in a terminal; the page and --json have all


@dataclass(frozen=True, slots=True)
class Section:
    """A title, what to know about it, and a table: its first column is text, the others are numbers.

    charts: (title, chart, note); on the page only.
    """

    title: str
    note: str = ""
    header: Sequence[str] = ()
    cells: Sequence[Sequence[str]] = ()
    charts: Sequence[tuple[str, Chart, str]] = ()


def to_text(title: str, sections: Sequence[Section]) -> str:
    """For people at a terminal."""
    return "\n".join([title, *(line for section in sections for line in _lines(section))])


def write_html(path: Path, title: str, sections: Sequence[Section], *, sources: Sequence[str] = ()) -> None:
    """One self-contained page. sources: files that were read, which it may not be."""
    body = [f"<h1>{escape(title)}</h1>", *(_html(section) for section in sections)]
    page.write(path, title, body, sources=sources)


def percent(value: float | None) -> str:
    """A share; "-" when there is none."""
    return "-" if value is None else f"{100 * value:.1f} %"


def dollars(value: float | None) -> str:
    """US dollars: cents, and more digits for less than a dollar."""
    if value is None:
        return "-"
    return f"{value:,.2f}" if abs(value) >= 1 or value == 0 else f"{value:,.4f}"


def count(value: int | None) -> str:
    """A whole number."""
    return "-" if value is None else f"{value:,}"


def _lines(section: Section) -> Iterator[str]:
    if not section.cells and not section.note:
        return
    yield f"\n{section.title}"
    yield from textwrap.wrap(section.note, WIDTH, initial_indent="  ", subsequent_indent="  ")
    if not section.cells:
        return
    rows = [list(section.header), *(list(row) for row in section.cells[:SHOWN])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(section.header))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  " + "  ".join(cells).rstrip()
    if len(section.cells) > SHOWN:
        yield f"  and {len(section.cells) - SHOWN:,} more: --json, --html"


def _html(section: Section) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>"]
    if section.note:
        parts.append(f"<p>{escape(section.note)}</p>")
    if section.charts:
        parts.append('<div class="charts">')
        parts += [page.figure(chart, escape(title), escape(note)) for title, chart, note in section.charts]
        parts.append("</div>")
    if section.cells:
        parts.append(page.table(section.header, section.cells))
    return "\n".join(parts) if len(parts) > 1 else ""
