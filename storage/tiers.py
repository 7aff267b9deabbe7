"""Tiers of markets: set by hand, or assigned by what a market traded in 24 hours."""

from collections.abc import Sequence

import numpy as np

from storage.events import Array
from storage.state import State

TIERS = ("tier1", "tier2", "tier3", "tier4")
LAST = len(TIERS)
STAYS = 0.8  # of its bound: a market falls out of a tier only below that

# Of the tiers that were assigned the last is not stored: it is that of all other markets.
_TIER = f"coalesce(tier, (SELECT 'tier' || t.tier FROM tiers t WHERE t.slot = markets.slot), '{TIERS[-1]}')"


def assigned(turnover: Array, before: Array, bounds: Sequence[float]) -> Array:
    """The tier (1 to 4) of each slot: `turnover` and `before`, the tiers until now, are by slot too; of slots beyond
    their ends the one is 0 and the other 4. `bounds`: from how much on a market is in tier 1, 2 and 3; descending.
    """
    size = max(len(turnover), len(before))
    traded, old = np.zeros(size), np.full(size, LAST, np.uint8)
    traded[: len(turnover)], old[: len(before)] = turnover, before
    tiers = np.full(size, LAST, np.uint8)
    for tier, bound in enumerate(bounds, 1):
        tiers -= (traded >= bound) | ((old <= tier) & (traded >= STAYS * bound))
    return tiers


def known(state: State) -> Array:
    """What was assigned, by slot."""
    with state.reading() as db:
        rows = db.execute("SELECT slot, tier FROM tiers").fetchall()
    found = np.full(max((slot for slot, _ in rows), default=-1) + 1, LAST, np.uint8)
    for slot, tier in rows:
        found[slot] = tier
    return found


def note(state: State, changed: Sequence[tuple[int, int]]) -> None:
    """Put away the new tiers of these slots."""
    with state.writing() as db:
        db.executemany("DELETE FROM tiers WHERE slot = ?", [(slot,) for slot, _ in changed])
        db.executemany("INSERT INTO tiers VALUES (?, ?)", [(slot, tier) for slot, tier in changed if tier < LAST])


def of(tier: str) -> tuple[str, list[str]]:
    """The markets of a tier, as a condition on rows of `markets`, and its values."""
    if tier == TIERS[-1]:
        return f"{_TIER} = ?", [tier]
    few = "SELECT slot FROM markets WHERE tier = ? UNION ALL SELECT slot FROM tiers WHERE tier = ?"
    return f"slot IN ({few}) AND {_TIER} = ?", [tier, tier.removeprefix("tier"), tier]
