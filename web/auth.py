"""Who may do what: keys, and what is allowed without one."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from werkzeug.datastructures import Headers

from storage.errors import NotAllowed
from storage.records import GRANTS, SCOPES, Scope
from web.context import Request, Services, WebSettings, request

SIGNED = ("events", "batch_events", "occupied", "channel", "users", "terminate", "terminate_by_key")

# What is asked of a request: `read` to look, `admin` to change; these endpoints are different.
WANTED: dict[str, Scope | None] = {
    "health.alive": None,
    "health.ready": None,
    **{f"sockets.{name}": None for name in ("ws", "lightweight", "tradingview", "ingest", "pusher", "pusher_behind")},
    "reference.document": None,
    "reference.page": None,
    "reference.style": None,
    # Signed by the secret of an app, or by nobody.
    **{f"rest.{name}": None for name in SIGNED},
    "permits.channel": None,
    "permits.user": None,
    "ui.index": None,
    "ui.asset": None,
    "ui.file": None,
    # Whoever may look at charts may save what they look like.
    **{f"layouts.{verb}_{what}": "read" for verb in ("save", "remove") for what in ("chart", "study", "tool")},
    "layouts.save_drawings": "read",
    "ingest.events": "ingest",
    "ingest.bars": "ingest",
    "ingest.snapshots": "ingest",
    "heartbeats.beats": "ingest",
    "heartbeats.coverage": "ingest",
    "marks.put": "ingest",
    "marks.delete": "ingest",
    "admin.backup_progress": "admin",
    "export.events": "admin",  # they name traders
}
LOOKING = ("GET", "HEAD")

ALL: frozenset[Scope] = frozenset(SCOPES)
READ: frozenset[Scope] = frozenset({"read"})
NONE: frozenset[Scope] = frozenset()
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip")


class KeyNeeded(NotAllowed):
    """No key came with the request, or one that is not ours."""


async def identify(services: Services, asked: Request) -> None:
    """Find out who sent the request, and what that allows."""
    settings = services.settings
    peer = asked.headers["Remote-Addr"]
    asked.address = address_of(peer, asked.headers.getlist("X-Forwarded-For"), settings.trusted_proxies)
    asked.granted = READ if settings.auth == "open" else NONE
    key = presented(asked)
    if key:
        scope = await services.keys.scope(key)
        if scope is not None:
            asked.known = True
            asked.granted |= GRANTS[scope]
    elif settings.demo and not stranger(asked.headers, peer):
        asked.granted = ALL


def allow(settings: WebSettings, asked: Request) -> None:
    """Raise unless the request may go on to its endpoint."""
    wanted = wanted_of(asked.endpoint or "", asked.method)
    if wanted is not None and asked.routing_exception is None:
        _demand(wanted, asked, settings)


def wanted_of(endpoint: str, method: str) -> Scope | None:
    """What a request must be allowed; None: nothing."""
    return WANTED.get(endpoint, "read" if method in LOOKING else "admin")


def may_read(settings: WebSettings, scope: Scope | None) -> bool:
    """Whether bars may be read with a key of this scope, or without one."""
    return settings.auth == "open" or (scope is not None and "read" in GRANTS[scope])


def demand(wanted: Scope, settings: WebSettings) -> None:
    """Raise unless the request that is being answered may do this as well."""
    _demand(wanted, request(), settings)


def at_home(asked: Request) -> bool:
    """Whether a request was made on this very machine, by its user and by no other site's page."""
    return not stranger(asked.headers, asked.headers["Remote-Addr"])


def presented(asked: Request) -> str:
    """The key that came with the request; empty where none did."""
    return bearer(asked.headers.get("Authorization", ""))


def bearer(authorization: str) -> str:
    """The key in an Authorization header; empty where there is none."""
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _demand(wanted: Scope, asked: Request, settings: WebSettings) -> None:
    if wanted in asked.granted:
        return
    if asked.known:
        raise NotAllowed(f"this key does not allow {wanted!r}")
    if "Authorization" in asked.headers:
        raise KeyNeeded("this key is unknown or revoked; expected 'Authorization: Bearer KEY'")
    if settings.demo and (why := stranger(asked.headers, asked.headers["Remote-Addr"])):
        raise NotAllowed(f"without a key, only this machine's own requests may write, and {why}")
    raise KeyNeeded(f"a key with the scope {wanted!r} is needed: 'Authorization: Bearer KEY'")


def stranger(headers: Headers, peer: str) -> str:
    """Why whoever sends these headers may be elsewhere, through a browser or a proxy; empty where that cannot be."""
    if not _loops_back(peer):
        return f"this one came from {peer}"
    host = headers.get("Host", "")
    if not _loops_back(_hostname(host)):
        # A name that somebody else's DNS points here makes their page look like ours to a browser.
        return f"this one was sent to Host {host!r:.100}"
    origin = headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return f"this one was sent by a page of {origin!r:.100}"
    if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return "this one was sent by another site's page"
    for name in FORWARDED:
        if name in headers:
            return f"this one came through a proxy ({name})"
    return ""


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _loops_back(name: str) -> bool:
    if name.lower() == "localhost":
        return True
    found = _parsed(name)
    return found is not None and found.is_loopback


@lru_cache(maxsize=4096)
def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


def address_of(peer: str, forwarded: list[str], proxies: tuple[str, ...]) -> str:
    """Whose request it is: the peer, or whoever the proxies that we trust say they speak for.

    One IPv6 customer has a whole /64, and counts as one.
    """
    found = peer
    if proxies and _trusted(peer, proxies):
        # Each proxy adds whom it heard at the end; what stands before the first that we do not trust is hearsay.
        for said in reversed([part.strip() for line in forwarded for part in line.split(",")]):
            if _parsed(said) is None:
                break
            found = said
            if not _trusted(said, proxies):
                break
    address = _parsed(found)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address) >> 64 << 64, 64)))
    return found if address is None else str(address)


@lru_cache(maxsize=4096)
def _trusted(text: str, proxies: tuple[str, ...]) -> bool:
    address = _parsed(text)
    return address is not None and any(address in ip_network(network, strict=False) for network in proxies)
