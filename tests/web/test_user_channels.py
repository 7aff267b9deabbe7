"""`/ws`: cards and alerts, as documented."""

import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from storage import secret
from storage.errors import NotAllowed
from tests.web.streaming import SECRET, streaming
from web import tokens, user_channels
from web.tokens import Tokens, TokenSettings

ALERTS = {"action": "subscribe", "channel": "alerts"}


def token(key: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """With these claims; without those that are None."""
    said = {"sub": "ann", "exp": time.time() + 60, **claims}
    return jwt.encode({name: value for name, value in said.items() if value is not None}, key, algorithm)


async def test_cards_are_followed_one_by_one_and_told_apart(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served, served.connect() as client:
        answer = await served.web.post(
            "/api/cards", json=[{"id": 123}, {"id": "7"}], headers=await served.web.key("admin")
        )
        assert answer.status_code == 200
        for card in (123, 7):
            told = await client.ask(action="subscribe", channel="card", card_id=card, id=f"c{card}")
            assert told == {"type": "subscribed", "channel": "card", "card_id": card, "id": f"c{card}"}
        # Again: answered again.
        assert (await client.ask(action="subscribe", channel="card", card_id=7))["type"] == "subscribed"
        told = await client.ask(action="unsubscribe", channel="card", card_id=7)
        assert told == {"type": "unsubscribed", "channel": "card", "card_id": 7}


@pytest.mark.parametrize(
    ("card", "code"),
    [(9, "unknown_card"), *((bad, "invalid_card_id") for bad in (0, -1, "123", True, 1.5, None, 2**63))],
)
async def test_a_card_that_there_is_not_is_an_error(tmp_path: Path, card: object, code: str) -> None:
    async with streaming(tmp_path) as served, served.connect() as client:
        answer = await client.ask(action="subscribe", channel="card", card_id=card)
        assert (answer["type"], answer["code"], answer["channel"]) == ("error", code, "card")


async def test_a_card_that_nobody_registered_is_known_by_its_prices(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served, served.connect() as client:
        price = {"time": 1767603600000, "card_id": 42, "marketplace": "tcgplayer", "price": 3}
        answer = await served.web.post("/api/ingest/snapshots", json=price, headers=await served.web.key("ingest"))
        assert answer.status_code == 200
        assert (await client.ask(action="subscribe", channel="card", card_id=42))["type"] == "subscribed"
        assert (await client.ask(action="subscribe", channel="card", card_id=4))["code"] == "unknown_card"


async def test_alerts_need_a_token(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served, served.connect() as client:
        assert await client.ask(**ALERTS, token=token()) == {"type": "subscribed", "channel": "alerts"}
        # A fresh one replaces it.
        assert await client.ask(**ALERTS, token=token(sub="bob"), id=2) == {
            "type": "subscribed",
            "channel": "alerts",
            "id": 2,
        }
        answer = await client.ask(action="unsubscribe", channel="alerts")
        assert answer == {"type": "unsubscribed", "channel": "alerts"}


BAD = {
    "another secret": token(key=SECRET[::-1]),
    "no algorithm": token("", "none"),
    "another algorithm": token(SECRET, "HS384"),
    "expired": token(exp=time.time() - 31),
    "not yet": token(nbf=time.time() + 90),
    "no end": token(exp=None),
    "nobody": token(sub=None),
    "an empty name": token(sub=""),
    "a number for a name": token(sub=5),
    "for somebody else": token(aud="elsewhere"),
    "changed": token()[:-2] + "xx",
    "none": "nonsense",
    "long": "x" * 10_000,
    "nothing": None,
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_a_bad_token_is_refused_and_nobody_told_why_or_the_token_again(tmp_path: Path, bad: str | None) -> None:
    async with streaming(tmp_path) as served, served.connect() as client:
        answer = await client.ask(**ALERTS, token=bad)
        assert answer == {
            "type": "error",
            "code": "unauthorized",
            "message": "token: expected a valid token",
            "channel": "alerts",
        }


def test_audience_and_issuer_are_checked_where_they_are_configured() -> None:
    strict = Tokens(SECRET, TokenSettings(audience="charts", issuer="sign-in"))
    assert strict.grant(token(aud="charts", iss="sign-in")).user == "ann"
    for audience, issuer in ((None, None), ("charts", None), (None, "sign-in"), ("x", "sign-in"), ("charts", "x")):
        with pytest.raises(NotAllowed):
            strict.grant(token(aud=audience, iss=issuer))


def test_clocks_may_differ_by_half_a_minute() -> None:
    assert Tokens(SECRET).grant(token(exp=time.time() - 25, nbf=time.time() + 25)).until > time.time()


async def test_ten_bad_tokens_close_the_connection(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served, served.connect() as client:
        for _ in range(user_channels.FAILURES - 1):
            assert (await client.ask(**ALERTS, token="bad"))["code"] == "unauthorized"
        assert (await client.ask(**ALERTS, token=token()))["type"] == "subscribed"
        await client.say(**ALERTS, token="bad")
        assert await client.ending() == 1008


async def test_alerts_end_with_the_token_unless_there_is_a_fresh_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "LEEWAY", 0.0)
    async with streaming(tmp_path) as served, served.connect() as ends, served.connect() as stays:
        await ends.ask(**ALERTS, token=token(exp=int(time.time()) + 2))
        await stays.ask(**ALERTS, token=token(exp=int(time.time()) + 2))
        await stays.ask(**ALERTS, token=token())
        assert await ends.hear() == {"type": "unsubscribed", "channel": "alerts", "reason": "token_expired"}
        assert await stays.ask(action="ping") == {"type": "pong"}


def test_a_secret_is_made_once_and_nobody_else_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "jwt.secret"
    made = secret.kept(path)
    assert len(made) >= 64
    assert secret.kept(path) == made
    assert path.stat().st_mode & 0o777 == 0o600
