"""Parameters that several routes take, and what the API reference says of them."""

from typing import Annotated

from msgspec import Meta

from actors.indicators import KINDS, MOST


def said(description: str, *examples: str, **schema: object) -> Meta:
    """A parameter that is read by hand: what it means, and what the API reference says of its form."""
    return Meta(description=description, examples=list(examples) or None, extra={"schema": schema})


def as_in(description: str, *examples: str, **schema: object) -> Meta:
    """As `said`, of a parameter that must not be empty."""
    return Meta(min_length=1, description=description, examples=list(examples) or None, extra={"schema": schema})


MARKET = "A market by its symbol or `EXCHANGE:NAME`, in any case; its `name` is found by search alone."
Symbol = Annotated[str, as_in(MARKET, "GOLD")]
# As TradingView names them.
Resolution = Annotated[
    str,
    said(
        "TradingView's name: `10S`, `1`, `45`, `1H`, `1D`, `1W`, `1M` or any other multiple. A number alone is minutes,"
        " `D` is `1D`, and `1m` is refused.",
        *("1", "60", "1D"),
    ),
]
AnyResolution = Annotated[str, said("`1m`, `1h`, `1d`, `1M` (a month), or as TradingView names it: `1`, `60`.", "1m")]
ChartFrom = Annotated[
    str,
    said("Seconds since 1970, inclusive. May be negative, have a fraction or lie in the future.", "0", type="number"),
]
ChartTo = Annotated[str, said("Seconds since 1970, exclusive; as `from`.", "4102444800", type="number")]
From = Annotated[str, said("Milliseconds since 1970, or ISO 8601 with a zone, inclusive. Unless given: all there is.")]
To = Annotated[str, said("As `from`, exclusive. Unless given: up to now.")]
FileFrom = Annotated[
    str, said("ISO 8601 with a zone, a date (UTC) or seconds since 1970, inclusive. Unless given: all there is.")
]
FileTo = Annotated[str, said("As `from`, exclusive. Unless given: all there is.")]
Indicators = Annotated[
    str,
    said(
        f"Up to {MOST} of {', '.join(KINDS)}, between commas, each with its parameters (`macd:12:26:9`) or with the"
        " usual ones. Their warm-up lies before the window.",
        "sma:20,rsi",
    ),
]
