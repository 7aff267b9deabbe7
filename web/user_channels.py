"""The channels `card` and `alerts` of `/ws`, as one connection follows them."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from msgspec import UnsetType

from storage.errors import NotAllowed
from web.messages import (
    Id,
    Refused,
    SubscribedCard,
    SubscribedChannel,
    UnsubscribedCard,
    UnsubscribedChannel,
    worded,
)
from web.shapes import shown
from web.stream import Session
from web.tokens import WHY, Grant, Tokens

FAILURES = 10  # tokens that are refused, until the connection is closed
LARGEST = 2**63

Known = Callable[[int], Awaitable[bool]]


class CardChannel:
    """The prices of some cards."""

    def __init__(self, session: Session, known: Known) -> None:
        """`known`: whether there is a card with this number."""
        self._session, self._known = session, known
        self._cards: set[int] = set()

    @property
    def count(self) -> int:
        return len(self._cards)

    async def subscribe(self, said: dict[str, Any], id: Id | UnsetType) -> None:
        card = _card(said)
        if card not in self._cards:
            self._session.admit_one()
            if not await self._known(card):
                raise Refused("unknown_card", f"card_id: no card has the id {card}")
            self._cards.add(card)
        self._session.answer(SubscribedCard("card", card, id))

    def unsubscribe(self, said: dict[str, Any], id: Id | UnsetType) -> None:
        card = _card(said)
        self._cards.discard(card)
        self._session.answer(UnsubscribedCard("card", card, id))

    def close(self) -> None:
        self._cards.clear()


def _card(said: dict[str, Any]) -> int:
    card = said.get("card_id")
    if isinstance(card, bool) or not isinstance(card, int) or not 0 < card < LARGEST:
        got = shown(card) if "card_id" in said else "nothing"
        raise Refused("invalid_card_id", f"card_id: expected a positive integer, got {got}")
    return card


class AlertChannel:
    """The alerts of one user, for as long as the token holds."""

    def __init__(self, session: Session, tokens: Tokens) -> None:
        self._session, self._tokens = session, tokens
        self._grant: Grant | None = None
        self._failures = 0

    @property
    def count(self) -> int:
        return int(self._grant is not None)

    async def subscribe(self, said: dict[str, Any], id: Id | UnsetType) -> None:
        await trio.lowlevel.checkpoint()
        token = said.get("token")
        try:
            if not isinstance(token, str):
                raise NotAllowed(WHY)
            grant = self._tokens.grant(token)
        except NotAllowed as error:
            self._failures += 1
            if self._failures >= FAILURES:
                self._session.end(1008, f"{FAILURES} tokens were refused")
                return
            raise Refused("unauthorized", f"token: {error}") from None
        if self._grant is None:
            self._session.admit_one()
        self._grant = grant
        self._session.answer(SubscribedChannel("alerts", id))
        self._expire_later(grant)

    def unsubscribe(self, _said: dict[str, Any], id: Id | UnsetType) -> None:
        self._grant = None
        self._session.answer(UnsubscribedChannel("alerts", id=id))

    def close(self) -> None:
        self._grant = None

    def _expire_later(self, grant: Grant) -> None:
        """Look again when the token expires; a clock that was set meanwhile is heeded."""

        def expire() -> None:
            if self._grant is not grant:
                return  # replaced, or left
            if time.time() < grant.until:
                self._expire_later(grant)
                return
            self._grant = None
            self._session.outbox.put(worded(UnsubscribedChannel("alerts", reason="token_expired")))

        self._session.hub.at(trio.current_time() + min(grant.until - time.time(), 3600.0), expire)
