"""Users who signed in: their connections, and who is told when they come and go."""

from collections.abc import Iterable

from web.pusher import frames
from web.pusher.peers import Peer

WATCHED = "pusher_internal:watchlist_events"
MOST_WATCHED = 100  # users on one watch list


class Users:
    """The signed-in users of one app."""

    def __init__(self) -> None:
        self._peers: dict[str, set[Peer]] = {}
        self._watchers: dict[str, set[Peer]] = {}

    def of(self, user_id: str) -> list[Peer]:
        """A user's connections."""
        return list(self._peers.get(user_id, ()))

    def enter(self, peer: Peer, user_id: str, watched: Iterable[str]) -> None:
        """A connection is this user's; tell whoever watches them, and it of those whom they watch."""
        peer.user, peer.watched = user_id, tuple(dict.fromkeys(watched))
        if user_id not in self._peers:
            self._tell("online", user_id)
        self._peers.setdefault(user_id, set()).add(peer)
        for other in peer.watched:
            self._watchers.setdefault(other, set()).add(peer)
        online = [other for other in peer.watched if other in self._peers]
        offline = [other for other in peer.watched if other not in self._peers]
        told = [_event(name, ids) for name, ids in (("online", online), ("offline", offline)) if ids]
        if told:
            peer.mail.send(frames.event(WATCHED, {"events": told}), "")

    def leave(self, peer: Peer) -> None:
        """A connection ends."""
        for other in peer.watched:
            _discard(self._watchers, other, peer)
        if peer.user is not None:
            _discard(self._peers, peer.user, peer)
            if peer.user not in self._peers:
                self._tell("offline", peer.user)

    def _tell(self, name: str, user_id: str) -> None:
        watchers = self._watchers.get(user_id)
        if watchers:
            frame = frames.event(WATCHED, {"events": [_event(name, [user_id])]})
            for peer in watchers:
                peer.mail.send(frame, "", (WATCHED, user_id))


def _event(name: str, ids: list[str]) -> dict[str, object]:
    return {"name": name, "user_ids": ids}


def _discard(sets: dict[str, set[Peer]], key: str, peer: Peer) -> None:
    found = sets.get(key)
    if found is not None:
        found.discard(peer)
        if not found:
            del sets[key]
