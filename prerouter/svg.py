"""Charts as inline SVG: lines with bands, points, bars, a shaded table. Colours are CSS variables of the page."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 480, 320
LEFT, RIGHT, TOP, BOTTOM = 60, 22, 12, 46  # margins, for tick labels and titles
LETTER = 6.2  # average width of a letter in pixels, at the page's 11
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows: values `low` to `high` (low < high). percent: ticks are written as shares."""

    title: str
    low: float
    high: float
    percent: bool = False

    def place(self, value: float, start: float, end: float) -> float:
        """Where `value` lies between the pixels `start` and `end`; outside values lie on the edge."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return start + share * (end - start)

    def ticks(self, wanted: int = 4) -> list[float]:
        """Round values between low and high: at least `wanted`, at most two and a half times as many and one."""
        rough = (self.high - self.low) / wanted
        unit = 10.0 ** math.floor(math.log10(rough))
        step = max((unit * m for m in (2, 5, 10) if unit * m <= rough * 1.001), default=unit)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]

    def shown(self, value: float) -> str:
        """A tick's text."""
        return f"{100 * value:.4g} %" if self.percent else f"{value:,.4g}"


@dataclass(frozen=True, slots=True)
class Times(Axis):
    """An axis of UTC seconds since 1970, its ticks at whole hours, days, weeks or more."""

    def ticks(self, wanted: int = 4) -> list[float]:
        """At most seven times of a round distance."""
        span = self.high - self.low
        step = next((s for s in _STEPS_S if span <= 7 * s), _STEPS_S[-1] * math.ceil(span / (7 * _STEPS_S[-1])))
        first = math.ceil(self.low / step)
        return [i * float(step) for i in range(first, math.floor(self.high / step) + 1)]

    def shown(self, value: float) -> str:
        """A tick's text: the day, with the hour where ticks are nearer than days."""
        at = datetime.datetime.fromtimestamp(value, datetime.UTC)
        span = self.high - self.low
        return at.strftime("%d %b %H:%M" if span <= 7 * _STEPS_S[3] else "%d %b" if span < 300 * 86_400 else "%b %Y")


_STEPS_S = [hours * 3600 for hours in (1, 3, 6, 12, 24, 48, 168, 336, 672)]


@dataclass(frozen=True, slots=True)
class Line:
    """A line through `points`. color: name of a CSS variable. band: (x, low, high) drawn behind it."""

    name: str
    points: Sequence[Point]
    color: str
    dashed: bool = False
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """A dot with a text beside it. whisker: (low, high) of its y, drawn as a vertical line."""

    at: Point
    text: str
    color: str
    whisker: Point | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines and marks on two axes; bars: (from x, to x, share of the height) along the foot."""

    x: Axis
    y: Axis
    lines: Sequence[Line] = ()
    marks: Sequence[Mark] = ()
    bars: Sequence[tuple[float, float, float]] = field(default=())

    def to_svg(self, title: str) -> str:
        """The SVG element; `title` is what a screen reader says."""
        parts = [*self._frame(), *self._bars()]
        for line in self.lines:
            parts += self._line(line)
        parts += [part for mark in self.marks for part in self._mark(mark)]
        parts += self._names()
        parts += self._legend()
        inside = "\n".join(parts)
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">\n'
            f"<title>{escape(title)}</title>\n{inside}\n</svg>"
        )

    def _at(self, point: Point) -> Point:
        return self.x.place(point[0], LEFT, WIDTH - RIGHT), self.y.place(point[1], HEIGHT - BOTTOM, TOP)

    def _frame(self) -> list[str]:
        foot, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        parts = []
        for tick in self.x.ticks():
            x = self.x.place(tick, LEFT, right)
            parts.append(_segment((x, TOP), (x, foot), "grid"))
            parts.append(_text(x, foot + 15, self.x.shown(tick), "middle"))
        for tick in self.y.ticks():
            y = self.y.place(tick, foot, TOP)
            parts.append(_segment((LEFT, y), (right, y), "grid"))
            parts.append(_text(LEFT - 6, y + 4, self.y.shown(tick), "end"))
        middle = (TOP + foot) / 2
        parts.append(_text((LEFT + right) / 2, HEIGHT - 8, self.x.title, "middle"))
        turned = f'<text x="14" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 14 {middle:.1f})">'
        return [*parts, f"{turned}{escape(self.y.title)}</text>"]

    def _bars(self) -> list[str]:
        foot, room = HEIGHT - BOTTOM, HEIGHT - BOTTOM - TOP
        parts = []
        for start, end, share in self.bars:
            left, right = (self.x.place(x, LEFT, WIDTH - RIGHT) for x in (start, end))
            height = share * room
            size = f'width="{max(right - left - 1, 0):.1f}" height="{height:.1f}"'
            parts.append(f'<rect class="bar" x="{left:.1f}" y="{foot - height:.1f}" {size}/>')
        return parts

    def _line(self, line: Line) -> list[str]:
        style = f'style="stroke:var(--{line.color})"' + (' stroke-dasharray="5 4"' if line.dashed else "")
        path = _path([self._at(point) for point in line.points])
        parts = [f'<polyline class="line" points="{path}" {style}/>'] if line.points else []
        if line.band:
            edge = [(x, high) for x, _, high in line.band] + [(x, low) for x, low, _ in reversed(line.band)]
            area = _path([self._at(point) for point in edge])
            parts.insert(0, f'<polygon class="band" points="{area}" style="fill:var(--{line.color})"/>')
        return parts

    def _mark(self, mark: Mark) -> list[str]:
        x, y = self._at(mark.at)
        parts = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" style="fill:var(--{mark.color})"/>']
        if mark.whisker:
            ends = [self._at((mark.at[0], value)) for value in mark.whisker]
            parts.insert(0, _segment(ends[0], ends[1], "whisker", f'style="stroke:var(--{mark.color})"'))
        return parts

    def _names(self) -> list[str]:
        """The marks' texts, each beside its dot and moved down until it covers no other and no dot."""
        parts: list[str] = []
        dots = [self._at(mark.at) for mark in self.marks]
        taken = [(x - 5, x + 5, y + 4) for x, y in dots]
        named = [mark for mark in self.marks if mark.text]
        for mark in sorted(named, key=lambda mark: self._at(mark.at)[::-1]):
            x, y = self._at(mark.at)
            width = LETTER * len(mark.text)
            left = x + 7 if x + 7 + width < WIDTH else x - 7 - width
            y += 4
            while any(abs(y - b) < 13 and left < end and start < left + width for start, end, b in taken):
                y += 1
            taken.append((left, left + width, y))
            parts.append(_text(left, y, mark.text, "start"))
        return parts

    def _legend(self) -> list[str]:
        named = [line for line in self.lines if line.name]
        parts = []
        for i, line in enumerate(named):
            y = TOP + 14 + 16 * i
            style = f'style="stroke:var(--{line.color})"' + (' stroke-dasharray="5 4"' if line.dashed else "")
            parts.append(_segment((LEFT + 10, y), (LEFT + 32, y), "line", style))
            parts.append(_text(LEFT + 38, y + 4, line.name, "start"))
        return parts


def _segment(start: Point, end: Point, css: str, style: str = "") -> str:
    at = f'x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
    return f'<line class="{css}" {at} {style}/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _path(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
