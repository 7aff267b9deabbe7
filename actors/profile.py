"""Pure: at which prices how much was traded, counted from bars."""

from typing import NamedTuple

import numpy as np

from actors.series import Table
from storage.measures import wired

BINS = 50
MOST_BINS = 500
DEEP = 40_000  # bars that one profile is counted from, the newest
SHARE = 0.7  # of the volume that lies in the value area


class Found(NamedTuple):
    """`volumes[i]` lies between `prices[i]` and `prices[i + 1]`."""

    prices: list[float]
    volumes: list[float]
    point_of_control: float | None
    value_area: tuple[float, float] | None


def profile(bars: Table, bins: int) -> Found:
    """Each bar's volume spread evenly from its low to its high; the bins are equally high."""
    low, high, volume = bars.low, bars.high, bars.volume
    if not volume.sum() > 0:
        return Found([], [], None, None)
    bottom, top = float(low.min()), float(high.max())
    if bottom == top:
        return Found([bottom, top], [float(wired(np.array([volume.sum()]))[0])], bottom, (bottom, top))
    edges = np.linspace(bottom, top, bins + 1)
    volumes = np.zeros(bins)
    # A bar adds as much to a bin as the part of it that lies below the bin's upper edge, less that below the lower.
    length = high - low
    for number in range(bins):
        below, above = edges[number], edges[number + 1]
        inside = np.minimum(high, above) - np.maximum(low, below)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(length > 0, np.clip(inside / length, 0, 1), 0.0)
        flat = (length == 0) & (low >= below) & ((low < above) | (number == bins - 1))
        volumes[number] = np.sum(np.where(flat, volume, volume * share))
    peak = int(volumes.argmax())
    first, last = _around(volumes, peak)
    prices = wired(edges)
    middle = wired(np.array([(edges[peak] + edges[peak + 1]) / 2]))
    area = float(prices[first]), float(prices[last + 1])
    return Found(prices.tolist(), wired(volumes).tolist(), float(middle[0]), area)


def _around(volumes: "np.ndarray[tuple[int], np.dtype[np.float64]]", peak: int) -> tuple[int, int]:
    """The bins around the fullest that hold SHARE of the volume: one by one, the fuller neighbour first."""
    first = last = peak
    held, wanted = volumes[peak], SHARE * volumes.sum()
    while held < wanted:
        below = volumes[first - 1] if first > 0 else -1.0
        above = volumes[last + 1] if last + 1 < len(volumes) else -1.0
        if max(below, above) < 0:
            break
        if above >= below:
            last += 1
            held += above
        else:
            first -= 1
            held += below
    return first, last
