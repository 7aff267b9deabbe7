"""The tokens that users sign in with (JWT, RFC 7519), verified here with the configured secret."""

import jwt
from msgspec import Struct

from storage.errors import NotAllowed

ALGORITHM = "HS256"  # never what a token says of itself
LEEWAY = 30.0  # seconds by which clocks may differ
WHY = "expected a valid token"  # never which check failed


class Grant(Struct, frozen=True):
    """Who a token speaks for, and until when (Unix seconds)."""

    user: str
    until: float


class TokenSettings(Struct, frozen=True, kw_only=True):
    """What tokens are to be like."""

    secret: str | None = None  # None: the one that is kept in the data directory
    audience: str | None = None
    issuer: str | None = None


class Tokens:
    """Verifies tokens."""

    def __init__(self, secret: str, settings: TokenSettings = TokenSettings()) -> None:  # noqa: B008 # frozen
        self._secret, self._audience, self._issuer = settings.secret or secret, settings.audience, settings.issuer
        wanted = {"exp": True, "sub": True, "aud": settings.audience, "iss": settings.issuer}
        self._required = [name for name, needed in wanted.items() if needed]

    def grant(self, token: str) -> Grant:
        """What a token grants; NotAllowed where it is none of ours, or not now."""
        try:
            said = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                options={"require": self._required},
            )
        except (jwt.InvalidTokenError, ValueError, RecursionError):
            raise NotAllowed(WHY) from None
        user, until = said["sub"], said["exp"]
        if not user or not isinstance(user, str):
            raise NotAllowed(WHY)
        return Grant(user, float(until) + LEEWAY)
