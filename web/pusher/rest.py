"""The REST API at `/apps/{id}`, as the server libraries of the protocol speak it."""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import unquote

import msgspec
from msgspec import Raw, Struct
from quart import Blueprint, Response, current_app

from storage.errors import BadRequest, CandledError, TooLarge
from web.context import NO_STORE, body, params, reply, request
from web.parameters import said
from web.pusher import frames, names
from web.pusher.apps import same, signature
from web.pusher.cache import KEPT_SECONDS
from web.pusher.channels import Channels
from web.pusher.endpoint import Pusher
from web.pusher.names import Name

rest = Blueprint("rest", __name__)

EXTENSION = "candled.pusher"
VERSION = "1.0"
LATE = 600  # seconds that a request's time may differ from ours
MOST_CHANNELS = 100
MOST_BATCHED = 10
LONGEST_EVENT = 200
RESERVED = ("pusher:", "pusher_internal:")
ROOM = 64 * 1024  # of a body, beside data
ESCAPES = 6  # bytes that one byte of data may take in JSON


class Unsigned(CandledError):
    """A request that no app's secret has signed."""


class Signature(Struct, frozen=True):
    """What every request has in its query; server libraries put it there."""

    auth_key: Annotated[str, said("The key of the app.")] = ""
    auth_timestamp: Annotated[str, said(f"Seconds since 1970, at most {LATE} from ours.")] = ""
    auth_version: Annotated[str, said("Always `1.0`.", VERSION)] = ""
    auth_signature: Annotated[
        str,
        said(
            "HMAC-SHA256 in hexadecimal digits, with the app's secret, of method, path and the rest of the query,"
            " sorted by name and decoded; a line each."
        ),
    ] = ""
    body_md5: Annotated[str, said("MD5 of the body in hexadecimal digits, where there is one.")] = ""


class ChannelQuery(Signature, frozen=True):
    """A signed question about a channel."""

    info: Annotated[str, said("Of `user_count`, `subscription_count` and `cache`, between commas.", "user_count")] = ""


class ChannelsQuery(ChannelQuery, frozen=True):
    """A signed question about channels."""

    filter_by_prefix: Annotated[str, said("What their names begin with.", "presence-")] = ""


class Trigger(Struct, frozen=True):
    """An event for some channels."""

    name: str
    data: Raw
    channels: list[str] | None = None
    channel: str | None = None
    socket_id: str | None = None
    info: str | None = None


class Batched(Struct, frozen=True):
    """An event for one channel."""

    channel: str
    name: str
    data: Raw
    socket_id: str | None = None
    info: str | None = None


class Batch(Struct, frozen=True):
    batch: list[Batched]


class Ready(Struct, frozen=True):
    """An event that may be published."""

    channel: Name
    name: str
    data: str
    but: str | None
    info: Sequence[str]


def pusher() -> Pusher:
    """The apps of the app that answers this request."""
    found: Pusher = current_app.extensions[EXTENSION]
    return found


@rest.errorhandler(Unsigned)
async def unsigned(error: Unsigned) -> Response:
    """Say what is wrong with a signature."""
    return reply({"error": str(error)}, 401, {"Cache-Control": NO_STORE})


@rest.post("/apps/<app_id>/events")
async def events(app_id: str) -> Response:
    """Publish an event in some channels."""
    channels, sent = await _signed(app_id)
    asked = _parsed(sent, Trigger)
    wanted = asked.channels if asked.channels is not None else [] if asked.channel is None else [asked.channel]
    if not 0 < len(wanted) <= MOST_CHANNELS:
        raise BadRequest(f"channels: expected 1 to {MOST_CHANNELS}, got {len(wanted)}")
    ready = [_ready(name, asked.name, asked.data, asked.socket_id, asked.info) for name in wanted]
    _publish(channels, ready)
    if asked.info is None:
        return _answer({})
    return _answer({"channels": {one.channel.whole: _attributes(channels, one.channel, one.info) for one in ready}})


@rest.post("/apps/<app_id>/batch_events")
async def batch_events(app_id: str) -> Response:
    """Publish several events, each in one channel."""
    channels, sent = await _signed(app_id)
    batch = _parsed(sent, Batch).batch
    if len(batch) > MOST_BATCHED:
        raise BadRequest(f"batch: expected at most {MOST_BATCHED} events, got {len(batch)}")
    ready = [_ready(one.channel, one.name, one.data, one.socket_id, one.info) for one in batch]
    _publish(channels, ready)
    if not any(one.info for one in ready):
        return _answer({})
    return _answer({"batch": [_attributes(channels, one.channel, one.info) for one in ready]})


@rest.get("/apps/<app_id>/channels")
async def occupied(app_id: str) -> Response:
    """The channels that somebody is in."""
    channels, _ = await _signed(app_id)
    asked = params(ChannelsQuery)
    prefix, wanted = asked.filter_by_prefix, _info(asked.info)
    if "user_count" in wanted and not prefix.startswith("presence-"):
        raise BadRequest(f"info: user_count needs a filter_by_prefix that begins with presence-, got {prefix!r:.200}")
    found = {name: _attributes(channels, names.parsed(name), wanted) for name in channels.occupied(prefix)}
    return _answer({"channels": found})


@rest.get("/apps/<app_id>/channels/<name>")
async def channel(app_id: str, name: str) -> Response:
    """What is known of a channel, whether or not somebody is in it."""
    channels, _ = await _signed(app_id)
    found, wanted = names.parsed(name), _info(params(ChannelQuery).info)
    if "user_count" in wanted and found.kind != "presence":
        raise BadRequest(f"info: user_count is for presence channels, and {name!r} is none")
    return _answer({"occupied": channels.find(name) is not None, **_attributes(channels, found, wanted)})


@rest.get("/apps/<app_id>/channels/<name>/users")
async def users(app_id: str, name: str) -> Response:
    """The users in a presence channel."""
    channels, _ = await _signed(app_id)
    if names.parsed(name).kind != "presence":
        raise BadRequest(f"users are in presence channels, and {name!r} is none")
    found = channels.find(name)
    ids = found.members.ids if found is not None and found.members is not None else []
    return _answer({"users": [{"id": id} for id in ids]})


@rest.post("/apps/<app_id>/users/<user_id>/terminate_connections")
async def terminate(app_id: str, user_id: str) -> Response:
    """Close a signed-in user's connections."""
    channels, _ = await _signed(app_id)
    return _terminated(channels, user_id)


@rest.post("/users/<user_id>/terminate_connections")
async def terminate_by_key(user_id: str) -> Response:
    """The same where the path does not name the app, as one of the libraries has it."""
    channels, _ = await _signed(None)
    return _terminated(channels, user_id)


def _terminated(channels: Channels, user_id: str) -> Response:
    for peer in channels.users.of(user_id):
        peer.close(frames.UNAUTHORIZED, "this user's connections were terminated")
    return _answer({})


# --- signatures


async def _signed(app_id: str | None) -> tuple[Channels, bytes]:
    """The app that signed the request, and the body. Raises Unsigned, or TooLarge."""
    asked, given = request(), params(Signature)
    most = MOST_BATCHED * ESCAPES * pusher().settings.data_bytes + ROOM
    if (asked.content_length or 0) > most:
        raise TooLarge(f"body: expected at most {most} bytes, got {asked.content_length}")
    sent = await body()
    if len(sent) > most:
        raise TooLarge(f"body: expected at most {most} bytes, got {len(sent)}")
    channels = pusher().by_key(given.auth_key)
    if channels is None:
        raise Unsigned(f"auth_key: no app has the key {given.auth_key!r:.60}")
    if app_id is not None and channels.app.id != app_id:
        raise Unsigned(f"auth_key: it is not a key of app {app_id!r:.60}")
    if given.auth_version != VERSION:
        raise Unsigned(f"auth_version: expected {VERSION}, got {given.auth_version!r:.60}")
    _see_time(given.auth_timestamp)
    _see_body(given.body_md5, sent)
    query = {name.lower(): value for name, value in asked.args.items() if name.lower() != "auth_signature"}
    path = asked.scope["raw_path"].decode("latin-1")
    # Libraries sign the path as they have it, whether or not it is encoded on its way.
    expected = [signature(channels.app.secret, to_sign(asked.method, one, query)) for one in (path, unquote(path))]
    if not any(same(one, given.auth_signature) for one in expected):
        raise Unsigned("auth_signature: it is not what the app's secret makes of this request")
    return channels, sent


def to_sign(method: str, path: str, query: dict[str, str]) -> str:
    """What the signature of a request is of."""
    return "\n".join([method, path, "&".join(f"{name}={query[name]}" for name in sorted(query))])


def _see_time(given: str) -> None:
    now = pusher().now()
    if not (given.isascii() and given.isdigit() and len(given) < 20):
        raise Unsigned(f"auth_timestamp: expected seconds since 1970, got {given!r:.60}")
    if abs(now - int(given)) > LATE:
        raise Unsigned(f"auth_timestamp: expected at most {LATE} seconds from {int(now)}, got {given}")


def _see_body(given: str, sent: bytes) -> None:
    if not given and not sent:
        return
    expected = hashlib.md5(sent, usedforsecurity=False).hexdigest()
    if not same(expected, given):
        raise Unsigned(f"body_md5: expected that of the body, {expected}, got {given!r:.60}")


# --- events


def _parsed(sent: bytes, shape: type[Any]) -> Any:
    try:
        return msgspec.json.decode(sent, type=shape)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"body: {error}") from None


def _ready(channel: str, name: str, data: Raw, but: str | None, info: str | None) -> Ready:
    if not 0 < len(name) <= LONGEST_EVENT:
        raise BadRequest(f"name: expected 1 to {LONGEST_EVENT} characters, got {len(name)}")
    if name.startswith(RESERVED):
        raise BadRequest(f"name: expected one that does not begin with {' or '.join(RESERVED)}, got {name!r}")
    try:
        text = frames.text_of(data)
    except ValueError as error:
        raise BadRequest(f"data: {error}") from None
    size, most = len(text.encode()), pusher().settings.data_bytes
    if size > most:
        raise TooLarge(f"data: expected at most {most} bytes, got {size}")
    return Ready(names.parsed(channel), name, text, but, _info(info))


def _publish(channels: Channels, ready: Sequence[Ready]) -> None:
    for one in ready:
        channels.publish(one.channel, one.name, one.data, one.but)


def _info(text: str | None) -> list[str]:
    return [part for part in (text or "").split(",") if part]


def _attributes(channels: Channels, name: Name, wanted: Sequence[str]) -> dict[str, Any]:
    """What is asked for of a channel, as far as it has it."""
    found, told = channels.find(name.whole), dict[str, Any]()
    if "user_count" in wanted and name.kind == "presence":
        told["user_count"] = len(found.members or ()) if found is not None else 0
    if "subscription_count" in wanted:
        told["subscription_count"] = len(found.peers) if found is not None else 0
    if "cache" in wanted and name.cached:
        kept = channels.cache.find(name.whole)
        if found is not None and found.feed is not None and found.feed.latest is not None:
            told["cache"] = {"data": found.feed.latest, "ttl": KEPT_SECONDS}
        elif kept is not None:
            told["cache"] = {"data": kept.data, "ttl": channels.cache.ttl(kept)}
    return told


def _answer(told: object) -> Response:
    return reply(told, headers={"Cache-Control": NO_STORE})
