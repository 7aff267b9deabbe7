"""What is kept or sent, as frozen Structs."""

from typing import Literal, get_args

from msgspec import Struct, structs

Kind = Literal["perp", "spot", "card", "index"]
Scope = Literal["read", "ingest", "admin"]

KINDS: tuple[Kind, ...] = get_args(Kind)
KIND_CODE: dict[str, int] = {kind: code for code, kind in enumerate(KINDS)}
SCOPES: tuple[Scope, ...] = get_args(Scope)

# What a key of each scope may do; a producer's key does not open the charts.
GRANTS: dict[Scope, frozenset[Scope]] = {
    "read": frozenset({"read"}),
    "ingest": frozenset({"ingest"}),
    "admin": frozenset({"admin", "ingest", "read"}),
}

# What charts show as the exchange, and what stands before the colon in `EXCHANGE:NAME`.
EXCHANGES: dict[Kind, str] = {"perp": "VAMM", "spot": "SPOT", "card": "CARDS", "index": "INDEX"}
# What charts file a market under.
TYPES: dict[Kind, str] = {"perp": "crypto", "spot": "crypto", "card": "card", "index": "index"}
# Which price types move the candles of a market that does not say.
PRICE_SOURCES: dict[Kind, tuple[str, ...]] = {
    "perp": ("mark",),
    "spot": ("trade",),
    "card": ("trade",),
    "index": ("trade",),
}


# gc=False: holds texts, numbers and one tuple of texts, so it cannot be part of a cycle.
class Market(Struct, frozen=True, kw_only=True, gc=False):
    """One registered market; decimals are exact decimal texts, None is "not said"."""

    slot: int  # ours alone, dense from 1: what events and candles carry; never shown
    market_id: int  # 0 … 2**64 - 1
    market_symbol: str
    kind: Kind
    contract_address: str | None = None
    chain_id: int | None = None
    vault_address: str | None = None
    oracle_address: str | None = None
    name: str | None = None
    description: str | None = None
    category: str | None = None
    base_asset: str | None = None
    quote_asset: str | None = None
    min_trade_size: str | None = None
    max_leverage: str | None = None
    trading_fee_rate: str | None = None
    funding_interval: int | None = None  # seconds
    is_active: bool = True
    created_timestamp: int  # µs since 1970 UTC, whole milliseconds
    deployment_block: int | None = None
    creator_address: str | None = None
    icon_url: str | None = None
    banner_url: str | None = None
    website_url: str | None = None
    tier: str | None = None  # None: assigned by 24 h volume
    supply: str | None = None
    price_source: tuple[str, ...]  # price types, in the order of PRICE_TYPES
    session: str = "24x7"
    timezone: str = "Etc/UTC"
    pricescale: int = 1_000_000
    minmov: int = 1

    @property
    def exchange(self) -> str:
        """What stands before the colon in `EXCHANGE:NAME`."""
        return EXCHANGES[self.kind]

    @property
    def type(self) -> str:
        """What charts file this market under."""
        return TYPES[self.kind]


def shown(market: Market) -> dict[str, object]:
    """The columns as others see them, and as they may be sent back: no slot, milliseconds."""
    columns = structs.asdict(market)
    del columns["slot"]
    columns["created_timestamp"] = market.created_timestamp // 1000
    columns["price_source"] = list(market.price_source)
    return columns


class ApiKey(Struct, frozen=True, kw_only=True):
    """What is known of a key; the key itself is shown once and not kept."""

    id: int
    scope: Scope
    name: str
    created: int  # µs since 1970 UTC, as the two below
    last_used: int | None = None
    revoked: int | None = None


class Reject(Struct, frozen=True, kw_only=True):
    """A dead letter: one event that was refused, as it was sent, and why."""

    at: int  # µs since 1970 UTC
    source: str  # which way in, and whose
    market_symbol: str | None = None
    error: str
    event: str  # as JSON, cut where it is long
