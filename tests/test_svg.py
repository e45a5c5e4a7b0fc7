from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from prerouter.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Chart, Line, Mark

SHARE = Axis("share", 0, 1, True)


def parsed(chart: Chart) -> ET.Element:
    return ET.fromstring(chart.to_svg("a <title> & more"))


def numbers(points: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())]


def test_values_stand_where_the_axes_say() -> None:
    chart = parsed(Chart(SHARE, SHARE, [Line("a", [(0, 0), (1, 1), (0.5, 0)], "blue")]))
    line = chart.find("polyline")
    assert line is not None
    right, foot = WIDTH - RIGHT, HEIGHT - BOTTOM
    assert numbers(line.attrib["points"]) == [(LEFT, foot), (right, TOP), ((LEFT + right) / 2, foot)]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 9))
@example(1.0, 400401.0, 2)  # a step above the wanted one left no tick inside
def test_ticks_are_few_round_and_inside(low: float, span: float, wanted: int) -> None:
    axis = Axis("", low, low + span)
    ticks = axis.ticks(wanted)
    assert wanted - 1 <= len(ticks) <= 2.5 * wanted + 1
    slack = 1e-6 * (abs(low) + span)
    assert all(low - slack <= tick <= low + span + slack for tick in ticks)
    assert ticks == sorted(set(ticks))


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), max_size=12))
def test_nothing_is_drawn_outside_the_frame(points: list[tuple[float, float]]) -> None:
    marks = [Mark(point, f"m{i}", "red", whisker=(-9, 9)) for i, point in enumerate(points)]
    chart = parsed(Chart(SHARE, SHARE, [Line("", points, "red", band=[(x, y, y) for x, y in points])], marks))
    for dot in chart.findall("circle"):
        assert LEFT <= float(dot.attrib["cx"]) <= WIDTH - RIGHT
        assert TOP <= float(dot.attrib["cy"]) <= HEIGHT - BOTTOM


def test_texts_of_near_marks_do_not_cover_each_other() -> None:
    marks = [Mark((0.5 + i / 1000, 1.0), f"policy {i}", "red") for i in range(4)]
    texts = [t for t in parsed(Chart(SHARE, SHARE, marks=marks)).findall("text") if "policy" in (t.text or "")]
    heights = sorted(float(t.attrib["y"]) for t in texts)
    assert len(heights) == 4
    assert min(b - a for a, b in pairwise(heights)) >= 13


def test_a_text_at_the_right_edge_stands_left_of_its_dot() -> None:
    chart = parsed(Chart(SHARE, SHARE, marks=[Mark((1.0, 0.5), "a rather long name", "red")]))
    (text,) = (t for t in chart.findall("text") if t.text == "a rather long name")
    assert float(text.attrib["x"]) < WIDTH - RIGHT - 90


def test_names_are_escaped() -> None:
    shown = Chart(Axis("<x>", 0, 1), SHARE, [Line("a<b&c", [(0, 0)], "blue")]).to_svg("t")
    assert [t.text for t in ET.fromstring(shown).findall("text")][-1] == "a<b&c"
    assert "<x>" not in shown


def test_bars_stand_on_the_foot() -> None:
    (bar,) = parsed(Chart(SHARE, SHARE, bars=[(0.0, 0.5, 0.5)])).findall("rect")
    assert float(bar.attrib["y"]) + float(bar.attrib["height"]) == HEIGHT - BOTTOM
