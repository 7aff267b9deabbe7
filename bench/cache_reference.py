"""What is usually run instead: FastAPI on uvicorn, answers ready as bytes in Redis.

uvicorn bench.cache_reference:app --loop uvloop --http httptools
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio
from fastapi import FastAPI, HTTPException, Query, Response


@asynccontextmanager
async def connected(app: FastAPI) -> AsyncIterator[None]:
    """Talk to the Redis of the environment while the app runs."""
    app.state.answers = redis.asyncio.from_url(os.environ["REDIS_URL"])
    yield
    await app.state.answers.aclose()


async def history(
    symbol: str, resolution: str, start: int = Query(alias="from"), end: int = Query(alias="to")
) -> Response:
    """The answer that was put there."""
    body = await app.state.answers.get(f"history:{symbol}:{resolution}:{start}:{end}")
    if body is None:
        raise HTTPException(404)
    return Response(body, media_type="application/json")


app = FastAPI(lifespan=connected)
app.get("/api/tradingview/history")(history)
