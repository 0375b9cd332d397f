from __future__ import annotations

import base64
import math
from xml.etree import ElementTree

from chatllama_pipeline.evaluation.curves import (
    interval_chart,
    line_chart,
    sparkline,
    sparkline_markdown,
    thin,
    ticks,
)
from chatllama_pipeline.records import Curve

FALLING = [(float(step), 7 * math.exp(-step / 60)) for step in range(400)]


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(svg).iter() if "text" in node.tag]


def test_a_sparkline_of_a_long_training_shows_inline_in_dagster() -> None:
    wild = [(float(step), -123.456 * math.sin(step)) for step in range(5000)]
    for points in (FALLING, wild):
        markdown = sparkline_markdown("loss", points)
        assert len(markdown) < 1000
        head, encoded = markdown.split("base64,")
        assert head == "![loss](data:image/svg+xml;"
        assert base64.b64decode(encoded.removesuffix(")")).decode() == sparkline(points)


def test_a_sparkline_tells_its_first_and_last_value() -> None:
    assert texts(sparkline([(0, 6.9), (1, 3.0), (2, 0.3412)])) == ["6.9", "0.341"]


def test_a_sparkline_of_one_point_of_equal_points_or_of_none_is_still_a_picture() -> None:
    assert texts(sparkline([(5, 2.0)])) == ["2", "2"]
    assert texts(sparkline([(5, 0.0), (6, 0.0)])) == ["0", "0"]
    assert texts(sparkline([])) == ["no points"]
    assert texts(sparkline([(1, math.nan)])) == ["no points"]


def test_thinning_averages_neighbours_and_keeps_the_last_point() -> None:
    points = [(0.0, 0.0), (1.0, 2.0), (2.0, 4.0), (3.0, 6.0), (4.0, 100.0)]
    assert thin(points, 3) == [(0.5, 1.0), (2.5, 5.0), (4.0, 100.0)]
    assert thin(points, 5) == points


def test_ticks_are_round_and_enclose_the_values() -> None:
    assert ticks(0.0, 1.0) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert ticks(0.31, 7.02) == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert ticks(-3.2, 0.4) == [-4.0, -3.0, -2.0, -1.0, 0.0, 1.0]


def test_a_chart_labels_its_axes_and_the_end_of_every_curve() -> None:
    chart = line_chart(
        [Curve("loss", [(100, 6.0), (400, 0.5)]), Curve("validation", [(400, 0.75)])], lowest=0.0
    )
    assert texts(chart) == [
        *["0", "2", "4", "6"],
        *["100", "200", "300", "400"],
        *["0.5", "0.75"],
    ]
    assert "aria-label='loss from 6 to 0.5; validation from 0.75 to 0.75'" in chart


def test_labels_of_curves_that_end_together_stand_apart_and_above_the_axis() -> None:
    chart = line_chart([Curve("a", [(1, 5.0), (2, 0.0)]), Curve("b", [(2, 0.01)])], lowest=0.0)
    heights = [
        float(node.attrib["y"])
        for node in ElementTree.fromstring(chart).iter()
        if node.attrib.get("class") == "end"
    ]
    # The frame ends at 162; a label's baseline stands 4 below its point.
    assert heights == [166.0, 152.0]


def test_points_that_are_not_finite_leave_a_gap() -> None:
    chart = line_chart([Curve("kl", [(1, 1.0), (2, math.nan), (3, 3.0)])])
    assert "nan" not in chart
    assert "aria-label='kl from 1 to 3'" in chart


def test_a_curves_name_is_escaped() -> None:
    chart = line_chart([Curve("a<b>&'c'", [(1, 1.0), (2, 2.0)])])
    titles = [n.text for n in ElementTree.fromstring(chart).iter() if n.tag == "title"]
    assert titles == ["a<b>&'c': 2"]


def test_an_interval_is_drawn_where_its_numbers_are() -> None:
    chart = interval_chart(0.25, 0.5, 0.75, 0.5, width=128)  # 14 pixels of margin: 100 for 0..1
    assert "cx='64.0'" in chart
    assert "x1='39.0' x2='89.0'" in chart
