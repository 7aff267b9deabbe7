"""Which spellings of a market's names count as one."""

import re
import unicodedata

from storage.records import EXCHANGES, Kind

# A symbol, a market_id, or a contract and its chain. A contract without a chain means the market that names none
# either, else the only one with this contract; a market that names none is also meant on every chain where the
# contract is no other market's.
Reference = str | int | tuple[int | None, str]

_WORD = re.compile(r"[^\W_]+")
_LONE = re.compile("[\ud800-\udfff]")  # half characters, which no database takes


def folded(symbol: str) -> str:
    """The same text for every spelling of a symbol: any case, either Unicode form, blanks around it."""
    text = unicodedata.normalize("NFD", _LONE.sub("\ufffd", symbol.strip()))
    # Upper first: what charts send is upper-cased, and `ı` and `ſ` only meet `i` and `s` there.
    return unicodedata.normalize("NFC", text.upper().casefold())


def qualified(key: str) -> tuple[Kind | None, str]:
    """The kind and the name that a folded `EXCHANGE:NAME` means; no kind where nothing like it stands in front."""
    head, colon, rest = key.partition(":")
    kind = _KIND_OF.get(head) if colon else None
    return (None, key) if kind is None else (kind, rest.strip())


def contract_key(address: str) -> str:
    """The same text for every spelling of an address: hexadecimal in any case, other alphabets as they are."""
    address = _LONE.sub("\ufffd", address.strip())
    return address.lower() if address[:2] in ("0x", "0X") else address


def words_in(text: str) -> list[str]:
    """The words of a text, folded, each once."""
    return list(dict.fromkeys(_WORD.findall(folded(text))))


def joined(text: str) -> str:
    """All words of a text as one."""
    return "".join(_WORD.findall(folded(text)))


_KIND_OF: dict[str, Kind] = {folded(exchange): kind for kind, exchange in EXCHANGES.items()}
