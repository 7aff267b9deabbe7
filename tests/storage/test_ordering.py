import random
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from storage import markets, ordering, tiers
from storage.names import folded
from storage.records import KINDS, Market
from storage.search import Busy
from storage.state import State


@pytest.mark.parametrize("chunk", [2, 500])
def test_an_order_is_what_sorting_all_of_them_gives(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordering, "CHUNK", chunk)
    chance = random.Random(chunk)
    ids = chance.sample([*range(1, 60), 2**63, 2**64 - 1], 40)
    with State.open(tmp_path / "s.db", synchronous="NORMAL") as state:
        many: list[dict[str, Any]] = [
            {
                "market_symbol": f"{chance.choice('aBcD')}{n}",
                "kind": chance.choice(KINDS),
                "market_id": ids[n],
                "is_active": chance.random() < 0.9,
                "tier": chance.choice([None, "tier1", "tier2"]),
                "category": chance.choice([None, "metals", "food"]),
            }
            for n in range(40)
        ]
        all_ = markets.put_all(state, many, lambda _: False)
        assigned = {market.slot: chance.choice([1, 2, 3, 4]) for market in all_ if chance.random() < 0.7}
        tiers.note(state, list(assigned.items()))
        volumes = np.array([0.0, *(chance.choice([0, 0, 1, 2, 2, 3]) for _ in range(30))])
        busy = Busy.of(volumes)
        keys: dict[ordering.Order, Any] = {
            "volume": lambda market: (-busy.volume(market.slot), market.market_id),
            "symbol": lambda market: folded(market.market_symbol),
            "id": lambda market: market.market_id,
        }
        assert set(keys) == set(get_args(ordering.Order))
        for order, key in keys.items():
            for tier, kind, category in product((None, *tiers.TIERS), (None, "spot"), (None, "metals")):
                some: list[Market] = [
                    m
                    for m in all_
                    if m.is_active
                    and tier in (None, m.tier or tiers.TIERS[assigned.get(m.slot, 4) - 1])
                    and kind in (None, m.kind)
                    and category in (None, m.category)
                ]
                some.sort(key=key)
                wanted = ordering.Wanted(tier, kind, category and category.upper())
                for offset, limit in ((0, 100), (3, 5), (12, 9), (39, 2)):
                    assert markets.ordered(state, order, wanted, offset, limit, busy) == some[offset : offset + limit]
