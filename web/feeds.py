"""How `/ws` tells live prices and trades."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import structs

from actors.live import Look
from web.outbox import text
from web.prices import change, live

_encode = msgspec.json.Encoder().encode
UNTOLD = ("market_symbol", "cursor")  # in every row as `symbol` and `seq`


class PriceRows:
    """Channel `prices`: every field at first, then those that changed."""

    quiet = frozenset({"timestamp"})

    def told(self, look: Look) -> dict[str, Any]:
        fields = structs.asdict(live(look.market, look.price, ""))
        return {name: value for name, value in fields.items() if name not in UNTOLD}

    def row(self, symbol: str, seq: int, told: Mapping[str, Any], changed: Iterable[str] | None) -> bytes:
        fields = told if changed is None else {name: told[name] for name in changed}
        return _encode({"symbol": symbol, **fields, "seq": seq})

    def message(self, rows: Sequence[bytes], *, full: bool, more: bool) -> bytes:
        head = b',"full":true' if full else b""
        head += b',"more":true' if full and more else b""
        return text(b'{"type":"prices"%b,"data":[%b]}' % (head, b",".join(rows)))


class Movers:
    """Channel `market`: a row for each market whose price or volume moved."""

    quiet: frozenset[str] = frozenset()

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now

    def told(self, look: Look) -> dict[str, Any]:
        price = look.price
        if price.price is None:
            return {}
        moved = change(price.price_24h_ago, price.price)
        return {"price": price.price, "change_24h": moved, "volume_24h": price.volume_24h}

    def row(self, symbol: str, _seq: int, told: Mapping[str, Any], _changed: Iterable[str] | None) -> bytes:
        return _encode({"symbol": symbol, **told})

    def message(self, rows: Sequence[bytes], *, full: bool, more: bool) -> bytes:
        head = b',"full":true' if full else b""
        head += b',"more":true' if full and more else b""
        body = b'{"type":"market_update","data":{"timestamp":%d%b,"movers":[%b]}}'
        return text(body % (int(self._now()), head, b",".join(rows)))


class TradeRows:
    """Channel `trades`."""

    def message(self, symbol: str, rows: Sequence[bytes], dropped: int) -> bytes:
        body = b'{"type":"trades","channel":"trades","symbol":%b,"data":[%b],"dropped":%d}'
        return text(body % (_encode(symbol), b",".join(rows), dropped))
