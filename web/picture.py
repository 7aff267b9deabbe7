"""Draw a chart of bars as SVG or PNG."""

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np

from storage.events import Array

Form = Literal["svg", "png"]
Theme = Literal["light", "dark"]

DPI = 100
ENTRY, ROW = 130, 14  # pixels of a legend's entry
PLAIN = (-9, 15)  # powers of ten of prices that are written in full
LABELS = 6  # on the time axis, at most
PANES = ("rsi", "macd", "atr")  # indicators that have a scale of their own


class Colors(NamedTuple):
    """What a theme looks like; rising and falling bars differ in fill too, for who does not see the colours."""

    ground: str
    ink: str
    grid: str
    up: str
    down: str
    lines: tuple[str, ...]  # so many that ten indicators can be told apart with STROKES


STROKES = ("solid", "dashdot", "dotted", (0, (9, 2)))
INNER = (0, (4, 3))  # of a line between others of its indicator
THEMES: dict[Theme, Colors] = {
    "light": Colors(
        *("#ffffff", "#1f2328", "#e4e7eb", "#0a7d5a", "#c2353d"),
        ("#1f6feb", "#b35900", "#7a3fc1", "#0b7285", "#b8187a", "#6b6100", "#57606a", "#5c3a1e"),
    ),
    "dark": Colors(
        *("#12161c", "#d5dae1", "#2a313b", "#26a17b", "#ef5350"),
        ("#58a6ff", "#f0a04b", "#b98cf2", "#4fc3d9", "#f778ba", "#d9c74a", "#a8b3bf", "#c69a7b"),
    ),
}


class Line(NamedTuple):
    """One line of an indicator; lines with one label look alike, and have one entry in the legend."""

    indicator: str
    label: str
    values: Array  # NaN where there is none
    inner: bool = False


class Legends(NamedTuple):
    """How large a legend may be: a low picture has none, so that there is room for the lines."""

    columns: int
    rows: int


class Drawing(NamedTuple):
    """All that is drawn; columns of equal length."""

    title: str
    time: Sequence[int]  # seconds
    open: Array
    high: Array
    low: Array
    close: Array
    volume: Array | None
    lines: Sequence[Line]
    intraday: bool


@cache
def _drawn_with() -> Any:
    """The plotting library takes a while to load: whoever starts the daemon does not wait for it."""
    import matplotlib
    from matplotlib.backends import backend_agg, backend_svg  # noqa: F401 # `matplotlib.backends` has them then
    from matplotlib.collections import LineCollection, PatchCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    matplotlib.rcParams.update({"svg.hashsalt": "candled", "text.parse_math": False, "font.size": 9})
    return Figure, LineCollection, PatchCollection, Rectangle


def drawn(what: Drawing, form: Form, width: int, height: int, theme: Theme) -> bytes:
    """The picture, `width` × `height` pixels; the same for the same bars. Blocks for a fraction of a second."""
    colors = THEMES[theme]
    figure_class = _drawn_with()[0]
    figure = figure_class(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=colors.ground, layout="constrained")
    lines = [line for line in what.lines if np.isfinite(line.values).any()]
    above = [line for line in lines if line.indicator not in PANES]
    panes = [name for name in PANES if any(line.indicator == name for line in lines)]
    shares = [4.0, *([1.0] if what.volume is not None else []), *(1.2 for _ in panes)]
    axes = figure.subplots(len(shares), 1, sharex=True, height_ratios=shares, squeeze=False)[:, 0]
    for ax in axes:
        _dress(ax, colors)
    legends = Legends(max(1, width // ENTRY), height // (3 * len(axes) * ROW))
    figure.suptitle(what.title, x=0.01, ha="left", color=colors.ink, fontsize=11, fontweight="bold")
    _candles(axes[0], what, above, colors)
    _lines(axes[0], above, colors, legends)
    below = list(axes[1:])
    if what.volume is not None:
        _volume(below.pop(0), what, colors)
    for ax, name in zip(below, panes, strict=True):
        _lines(ax, [line for line in lines if line.indicator == name], colors, legends)
    _time(axes[-1], what)
    out = io.BytesIO()
    metadata = {"Date": None, "Creator": "candled"} if form == "svg" else {"Software": "candled"}
    figure.savefig(out, format=form, metadata=metadata, facecolor=colors.ground)
    return out.getvalue()


def _dress(ax: Any, colors: Colors) -> None:
    ax.set_facecolor(colors.ground)
    ax.yaxis.tick_right()
    ax.tick_params(colors=colors.ink, length=0)
    ax.grid(color=colors.grid, linewidth=0.6)
    ax.set_axisbelow(True)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.ticklabel_format(axis="y", useOffset=False, scilimits=PLAIN)
    ax.yaxis.set_offset_position("right")


def _candles(ax: Any, what: Drawing, lines: Sequence[Line], colors: Colors) -> None:
    _, line_collection, patch_collection, rectangle = _drawn_with()
    n = len(what.time)
    ax.set_xlim(-0.8, max(n, 1) - 0.2)
    if not n:
        ax.set_yticks([])
        ax.text(0.5, 0.5, "no bars", transform=ax.transAxes, ha="center", va="center", color=colors.ink, fontsize=12)
        return
    x = np.arange(n)
    low = float(min(what.low.min(), *(np.nanmin(line.values) for line in lines), np.inf))
    high = float(max(what.high.max(), *(np.nanmax(line.values) for line in lines), -np.inf))
    pad = 0.04 * (high - low) or 0.01 * abs(high) or 1.0
    ax.set_ylim(low - pad, high + pad)
    for rising, color in ((True, colors.up), (False, colors.down)):
        rows = np.flatnonzero((what.close >= what.open) == rising)
        body_low, body_high = np.minimum(what.open, what.close), np.maximum(what.open, what.close)
        flat = (high - low + 2 * pad) / 400  # a bar that ends where it began is a stroke
        wicks = [[(i, what.low[i]), (i, body_low[i])] for i in rows] + [
            [(i, body_high[i]), (i, what.high[i])] for i in rows
        ]
        ax.add_collection(line_collection(wicks, colors=color, linewidths=0.9))
        bodies = [rectangle((i - 0.36, body_low[i]), 0.72, max(body_high[i] - body_low[i], flat)) for i in rows]
        fill = colors.ground if rising else color
        ax.add_collection(patch_collection(bodies, facecolor=fill, edgecolor=color, linewidth=0.9))
    last = float(what.close[-1])
    ax.axhline(last, color=colors.ink, linewidth=0.6, linestyle=(0, (2, 2)))
    ax.plot(x[-1:], [last], marker="o", markersize=3, color=colors.ink)


def _volume(ax: Any, what: Drawing, colors: Colors) -> None:
    assert what.volume is not None
    shade = [colors.up if rose else colors.down for rose in what.close >= what.open]
    ax.bar(np.arange(len(what.time)), what.volume, width=0.72, color=shade, alpha=0.6)
    ax.locator_params(axis="y", nbins=2)


def _lines(ax: Any, lines: Sequence[Line], colors: Colors, legends: Legends) -> None:
    labels = list(dict.fromkeys(line.label for line in lines))
    for line in lines:
        round_, number = divmod(labels.index(line.label), len(colors.lines))
        ax.plot(
            np.arange(len(line.values)),
            line.values,
            color=colors.lines[number],
            linewidth=1.1,
            linestyle=INNER if line.inner else STROKES[round_],
            label="_" if line.inner else line.label,  # which legends leave out
        )
    if 0 < len(labels) <= legends.columns * legends.rows:
        # Above the axes: within them it would lie on what it explains.
        handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        ax.legend(
            handles.values(),
            handles.keys(),
            loc="lower left",
            bbox_to_anchor=(0, 1),
            borderaxespad=0.2,
            fontsize=7,
            frameon=False,
            labelcolor=colors.ink,
            ncols=legends.columns,
        )


def _time(ax: Any, what: Drawing) -> None:
    n = len(what.time)
    if not n:
        ax.set_xticks([])
        return
    places = np.unique(np.linspace(0, n - 1, min(LABELS, n)).round().astype(int))
    long = what.time[-1] - what.time[0] > 300 * 86400
    form = "%Y-%m" if long else "%m-%d" if not what.intraday else "%m-%d %H:%M"
    ax.set_xticks(places, [datetime.fromtimestamp(what.time[i], UTC).strftime(form) for i in places])
