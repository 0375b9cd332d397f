"""The audit's pictures as inline SVG: histograms of lengths, bars of what was kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from chatllama_pipeline.data.audit.lengths import Lengths


def short_number(value: float) -> str:
    """1234 -> 1.2k, 2500000 -> 2.5M."""
    for limit, sign in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{sign}"
    return f"{value:.3g}"


def histogram(series: Sequence[tuple[str, Lengths]], width: int = 330, height: int = 170) -> str:
    """Shares of rows by length, on a logarithmic axis; one outline per (name, lengths).

    Colours come from the page's `--series-1`, `--series-2`; every series has a row.
    """
    left, right, top, bottom = 10, width - 10, 12, height - 26
    low = min(lengths.bins[0][0] for _, lengths in series)
    high = max(lengths.bins[-1][1] for _, lengths in series)
    peak = max(height for _, lengths in series for _, height in _heights(lengths))
    span = math.log(high / low)

    def across(value: float) -> float:
        return left + math.log(value / low) / span * (right - left)

    def up(height: float) -> float:
        return bottom - height / peak * (bottom - top)

    parts = [f"<path d='M{left} {bottom}H{right}' class='rule'/>"]
    parts += [
        f"<text x='{across(stop):.1f}' y='{bottom + 18}' text-anchor='middle' class='faint'>"
        f"{short_number(stop)}</text>"
        for stop in _stops(low, high)
    ]
    for number, (name, lengths) in enumerate(series, start=1):
        outline = f"M{across(lengths.bins[0][0]):.1f} {bottom}"
        for end, share in _heights(lengths):
            outline += f"V{up(share):.1f}H{across(end):.1f}"
        colour = f"var(--series-{number})"
        parts.append(
            f"<g><title>{escape(name, quote=False)}: median {lengths.median}</title>"
            f"<path d='{outline}V{bottom}Z' "
            f"fill='{colour}' fill-opacity='.16' stroke='{colour}' stroke-width='1.6' "
            "stroke-linejoin='round'/></g>"
        )
    spoken = "; ".join(
        f"{name}: median {lengths.median}, 95 % up to {lengths.most_of}" for name, lengths in series
    )
    return _picture(width, height, spoken, "".join(parts))


def _heights(lengths: Lengths) -> list[tuple[float, float]]:
    """Of every bin its end, and its share of rows per octave: bins may differ in width."""
    return [
        (end, count / lengths.rows / math.log2(end / start)) for start, end, count in lengths.bins
    ]


def _stops(low: float, high: float) -> list[float]:
    """Round numbers within a range, few enough to stand side by side."""
    if high / low < 10:
        step = next(
            mantissa * 10.0**power
            for power in range(-1, 12)
            for mantissa in (1, 2, 5)
            if (high - low) / (mantissa * 10.0**power) <= 6
        )
        return [step * count for count in range(math.ceil(low / step), math.floor(high / step) + 1)]
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in ((1, 2, 5), (1, 3), (1,)):
        stops = [mantissa * 10.0**power for power in powers for mantissa in mantissas]
        stops = [stop for stop in stops if low <= stop <= high]
        if len(stops) <= 7:
            break
    return stops


def kept_bar(read: int, valid: int, kept: int, most: int, width: int = 220) -> str:
    """What was read as one bar, `most` as long as the picture: kept, fit but not kept, unfit."""
    height = 14
    scale = width / most if most else 0.0
    ends = [max(1.0, kept * scale) if kept else 0.0, valid * scale, max(1.0, read * scale)]
    bars = zip(("unfit", "spare", "kept"), reversed(ends), strict=True)
    body = "".join(
        f"<rect width='{end:.1f}' height='{height}' rx='2' class='{kind}'/>" for kind, end in bars
    )
    spoken = f"{read} read, {valid} valid, {kept} kept"
    return _picture(width, height, spoken, body, "bar' preserveAspectRatio='none")


def _picture(width: int, height: int, spoken: str, body: str, kind: str = "chart") -> str:
    label = escape(spoken, quote=False).replace("'", "&#39;")
    box = f"viewBox='0 0 {width} {height}'"
    return f"<svg class='{kind}' role='img' aria-label='{label}' {box}>{body}</svg>"
