"""`/pusher/auth` and `/pusher/user-auth`: signatures for the pages of users and of whoever has a key of ours."""

import base64
import hashlib
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import parse_qs

import msgspec
from msgspec import UNSET, Struct, UnsetType
from quart import Blueprint, Response

from storage.errors import BadRequest, NotAllowed
from web.auth import presented
from web.context import NO_STORE, body, reply, request
from web.pusher import names
from web.pusher.apps import auth, joining, signing_in
from web.pusher.channels import Channels
from web.pusher.names import MARKET, Name
from web.pusher.rest import pusher

permits = Blueprint("permits", __name__, url_prefix="/pusher")

MOST = 16 * 1024  # bytes of a request
OF_MARKETS = "a market's, such as private-market-GOLD"


class Form(Struct, frozen=True):
    """What pusher-js sends."""

    socket_id: str
    channel_name: str | UnsetType = UNSET


class Permit(Struct, frozen=True):
    """A signature, and what it is of."""

    auth: str
    channel_data: str | UnsetType = UNSET  # JSON
    user_data: str | UnsetType = UNSET  # JSON
    shared_secret: str | UnsetType = UNSET  # of an encrypted channel


class Caller(NamedTuple):
    """Who asks for a signature, and for what it may be."""

    id: str
    may: Callable[[Name], bool]
    told: str  # which channels these are


@permits.post("/auth")
async def channel() -> Response:
    """Sign a connection's way into a channel."""
    caller, said = _caller(), await _said()
    channels = _app(said)
    try:
        name = names.parsed(said.get("channel_name", ""))
    except BadRequest as error:
        raise NotAllowed(str(error)) from None
    if name.kind in ("public", "user"):
        raise NotAllowed(f"channel_name: {name.whole!r} needs no signature")
    if not caller.may(name):
        raise NotAllowed(f"channel_name: expected {caller.told}, got {name.whole!r}")
    data = msgspec.json.encode({"user_id": caller.id}).decode() if name.kind == "presence" else None
    told = Permit(
        auth(channels.app, joining(said["socket_id"], name.whole, data)),
        channel_data=UNSET if data is None else data,
        shared_secret=_shared(channels, name) if name.kind == "encrypted" else UNSET,
    )
    return reply(told, headers={"Cache-Control": NO_STORE})


@permits.post("/user-auth")
async def user() -> Response:
    """Sign a user in on a connection."""
    caller, said = _caller(), await _said()
    channels = _app(said)
    data = msgspec.json.encode({"id": caller.id}).decode()
    signed = auth(channels.app, signing_in(said["socket_id"], data))
    return reply(Permit(signed, user_data=data), headers={"Cache-Control": NO_STORE})


def _caller() -> Caller:
    """Whoever shows a key that may read, or a user's token. Raises NotAllowed."""
    asked = request()
    shown = presented(asked)
    if asked.known:
        # Always the same for the same key, which it does not give away.
        id = hashlib.sha256(shown.encode()).hexdigest()[:16]
        if "admin" in asked.granted:
            return Caller(id, lambda _: True, "any channel")
        if "read" in asked.granted:
            return Caller(id, _of_market, OF_MARKETS)
        raise NotAllowed("this key does not allow 'read'")
    tokens = pusher().tokens
    if tokens is None or not shown:
        raise NotAllowed("a key with the scope 'read' or a user's token is needed: 'Authorization: Bearer KEY'")
    id, open = tokens.grant(shown).user, pusher().settings.open

    def may(name: Name) -> bool:
        if name.rest.startswith(MARKET):
            return open
        return name.kind == "presence" or name.rest == f"user-{names.escaped(id)}"

    return Caller(id, may, f"presence-…, private-user-{names.escaped(id)}" + (f" or {OF_MARKETS}" if open else ""))


def _of_market(name: Name) -> bool:
    return name.rest.startswith(MARKET)


async def _said() -> dict[str, str]:
    """The fields of the form."""
    sent = await body()
    if len(sent) > MOST:
        raise BadRequest(f"body: expected at most {MOST} bytes, got {len(sent)}")
    try:
        fields = parse_qs(sent.decode(), keep_blank_values=True, max_num_fields=20)
    except (UnicodeDecodeError, ValueError):
        raise BadRequest("body: expected the fields of a form") from None
    return {name: values[0] for name, values in fields.items()}


def _app(said: dict[str, str]) -> Channels:
    """The app of the connection that is spoken of."""
    found = next((one for one in pusher().channels if one.peer(said.get("socket_id", "")) is not None), None)
    if found is None:
        raise NotAllowed(f"socket_id: no connection here has {said.get('socket_id', '')!r:.60}")
    return found


def _shared(channels: Channels, name: Name) -> str:
    """The key of an encrypted channel, which only those who may join know."""
    if not channels.app.encryption_key:
        raise NotAllowed("encrypted channels need an encryption_key of their app in the configuration")
    master = base64.b64decode(channels.app.encryption_key)
    return base64.b64encode(hashlib.sha256(name.whole.encode() + master).digest()).decode()
