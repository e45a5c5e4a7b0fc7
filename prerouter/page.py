"""Self-contained HTML pages: the frame, tables, charts with a note. No script, nothing loaded, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

from prerouter.files import open_output
from prerouter.svg import Chart


def write(path: Path, title: str, sections: Iterable[str], *, sources: Sequence[str] = ()) -> None:
    """Write the page; `sections` are HTML. sources: files that were read, which `path` may not be."""
    frame = Template(Path(__file__).with_name("page.html").read_text("utf-8"))
    with open_output(str(path), sources=sources) as out:
        out.write(frame.substitute(title=escape(title), body="\n".join(sections)))


def figure(chart: Chart, title: str, note: str) -> str:
    """A chart with what it shows; `note` is HTML."""
    return f"<figure>{chart.to_svg(title)}<figcaption><strong>{title}.</strong> {note}</figcaption></figure>"


def table(header: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """A table of plain texts."""
    return rows(header, [([escape(cell) for cell in row], "") for row in cells])


def rows(header: Sequence[str], lines: Iterable[tuple[Sequence[str], str]]) -> str:
    """A table of HTML cells, each row with its CSS class."""
    titles = "".join(f"<th>{escape(title)}</th>" for title in header)
    body = (
        f"<tr{f' class={css}' if css else ''}>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
        for row, css in lines
    )
    return f'<div class="wide"><table><tr>{titles}</tr>\n' + "\n".join(body) + "\n</table></div>"
