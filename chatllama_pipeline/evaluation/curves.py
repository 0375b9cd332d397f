"""Curves as small SVG pictures: sparklines for Dagster's metadata, charts for the report."""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from chatllama_pipeline.records import Curve

Points = Sequence[tuple[float, float]]

# Dagster shows markdown inline below 1,000 characters only: 40 points stay under it.
SPARKLINE_POINTS = 40
CHART_POINTS = 120


def sparkline(points: Points, width: int = 160, height: int = 40) -> str:
    """A line without axes, `width` x `height` pixels, its first and last value at its ends."""
    start = f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}'>"
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    if not finite:
        return f"{start}<text y='{height // 2}' fill='#888'>no points</text></svg>"
    margin = 34
    shown = thin(finite, SPARKLINE_POINTS)
    x_low, x_high = _bounds([x for x, _ in shown])
    y_low, y_high = _bounds([y for _, y in shown])
    across = _Scale(x_low, x_high, margin, width - margin)
    up = _Scale(y_low, y_high, height - 5, 5)
    path = " ".join(f"{across(x):.0f} {up(y):.0f}" for x, y in shown)
    first, last = up(shown[0][1]) + 4, up(shown[-1][1]) + 4
    return (
        f"{start}<path d='M{path}' fill='none' stroke='#47d' stroke-width='1.5'/>"
        "<g font-family='sans-serif' font-size='10' fill='#888'>"
        f"<text x='{margin - 4}' y='{first:.0f}' text-anchor='end'>{finite[0][1]:.3g}</text>"
        f"<text x='{width - margin + 4}' y='{last:.0f}'>{finite[-1][1]:.3g}</text></g></svg>"
    )


def sparkline_markdown(name: str, points: Points) -> str:
    """A sparkline as an inline picture in markdown, below 1,000 characters."""
    encoded = base64.b64encode(sparkline(points).encode()).decode()
    return f"![{name}](data:image/svg+xml;base64,{encoded})"


def thin(points: Points, most: int) -> list[tuple[float, float]]:
    """At most `most` points: neighbours are averaged, the last point stays as it is."""
    if len(points) <= most:
        return list(points)
    groups = most - 1
    body = points[:-1]
    edges = [round(i * len(body) / groups) for i in range(groups + 1)]
    means = []
    for start, end in itertools.pairwise(edges):
        group = body[start:end]
        means.append(
            (
                math.fsum(x for x, _ in group) / len(group),
                math.fsum(y for _, y in group) / len(group),
            )
        )
    return [*means, points[-1]]


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers, evenly spaced, from at or below `low` to at or above `high`; low < high."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def line_chart(
    curves: Sequence[Curve], width: int = 330, height: int = 190, lowest: float | None = None
) -> str:
    """Curves over one pair of axes, each with its last value at its end.

    Every curve has a finite point. `lowest` is a value that the vertical axis must reach down to.
    Colours come from the page's `--series-1`, `--series-2`, ... and its text classes.
    """
    drawn = [
        (curve.name, [(x, y) for x, y in curve.points if math.isfinite(y)]) for curve in curves
    ]
    shown = [(name, thin(points, CHART_POINTS)) for name, points in drawn]
    xs = [x for _, points in shown for x, _ in points]
    ys = [y for _, points in shown for _, y in points]
    rungs = ticks(*_bounds(ys if lowest is None else [*ys, lowest]))
    frame = _Frame(left=46, right=width - 54, top=14, bottom=height - 28)
    across = _Scale(*_bounds(xs), frame.left, frame.right)
    up = _Scale(rungs[0], rungs[-1], frame.bottom, frame.top)
    stops = [
        tick
        for tick in ticks(across.low, across.high)
        if across.low <= tick <= across.high and tick.is_integer()
    ]
    parts = [_grid(rungs, up, frame), _steps(stops, across, frame)]
    ends = _apart([up(points[-1][1]) for _, points in shown], 14.0, frame.bottom)
    for number, ((name, points), label_y) in enumerate(zip(shown, ends, strict=True), start=1):
        path = " ".join(f"{across(x):.1f} {up(y):.1f}" for x, y in points)
        x, y = points[-1]
        colour = f"var(--series-{number})"
        parts.append(
            f"<g><title>{escape(name, quote=False)}: {y:.4g}</title>"
            f"<path d='M{path}' fill='none' stroke='{colour}' stroke-width='2' "
            "stroke-linejoin='round' stroke-linecap='round'/>"
            f"<circle cx='{across(x):.1f}' cy='{up(y):.1f}' r='3.5' fill='{colour}'/>"
            f"<text x='{frame.right + 8:g}' y='{label_y + 4:.1f}' class='end' fill='{colour}'>"
            f"{y:.3g}</text></g>"
        )
    spoken = "; ".join(f"{name} from {p[0][1]:.3g} to {p[-1][1]:.3g}" for name, p in shown)
    return _picture(width, height, spoken, "".join(parts))


def interval_chart(
    low: float, middle: float, high: float, threshold: float, width: int = 360
) -> str:
    """A share with its interval on an axis from 0 to 1, and the threshold that `low` must pass."""
    axis = 30
    across = _Scale(0.0, 1.0, 14, width - 14)
    numbers = "".join(
        _number(across(tick), axis + 24, "middle", tick) for tick in (0, 0.25, 0.5, 0.75, 1)
    )
    body = (
        f"<line x1='14' x2='{width - 14}' y1='{axis}' y2='{axis}' class='rule'/>{numbers}"
        f"<line x1='{across(threshold):.1f}' x2='{across(threshold):.1f}' y1='{axis - 20}' "
        f"y2='{axis + 8}' class='threshold'/>"
        f"<line x1='{across(low):.1f}' x2='{across(high):.1f}' y1='{axis}' y2='{axis}' "
        "stroke='var(--series-1)' stroke-width='9' stroke-linecap='round' stroke-opacity='.35'/>"
        f"<circle cx='{across(middle):.1f}' cy='{axis}' r='6' fill='var(--series-1)'/>"
    )
    spoken = f"{middle:.3f}, interval {low:.3f} to {high:.3f}, threshold {threshold:g}"
    return _picture(width, axis + 30, spoken, body)


@dataclass(frozen=True)
class _Scale:
    """Maps [low, high] linearly onto pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True)
class _Frame:
    left: float
    right: float
    top: float
    bottom: float


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """The smallest and largest value, set apart where they are equal."""
    low, high = min(values), max(values)
    if high > low:
        return low, high
    half = abs(low) * 0.5 or 0.5
    return low - half, high + half


def _grid(rungs: list[float], up: _Scale, frame: _Frame) -> str:
    return "".join(
        f"<path d='M{frame.left:g} {up(rung):.1f}H{frame.right:g}' class='rule'/>"
        + _number(frame.left - 8, up(rung) + 4, "end", rung)
        for rung in rungs
    )


def _steps(stops: list[float], across: _Scale, frame: _Frame) -> str:
    return "".join(_number(across(stop), frame.bottom + 19, "middle", stop) for stop in stops)


def _number(x: float, y: float, anchor: str, value: float) -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' class='faint'>{value:g}</text>"


def _apart(heights: list[float], gap: float, bottom: float) -> list[float]:
    """The same heights, pushed up where needed: labels `gap` apart, none below `bottom`."""
    placed: dict[int, float] = {}
    for index in sorted(range(len(heights)), key=lambda i: (-heights[i], i)):
        placed[index] = min(heights[index], bottom)
        bottom = placed[index] - gap
    return [placed[index] for index in range(len(heights))]


def _picture(width: int, height: int, spoken: str, body: str) -> str:
    label = escape(spoken, quote=False).replace("'", "&#39;")
    box = f"viewBox='0 0 {width} {height}'"
    return f"<svg class='chart' role='img' aria-label='{label}' {box}>{body}</svg>"
