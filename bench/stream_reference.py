"""What is usually run instead of streams: FastAPI on uvicorn, each message out of Redis Pub/Sub to every subscriber.

uvicorn bench.stream_reference:app --loop uvloop --http httptools --ws websockets
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
import redis.asyncio
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

subscribers: dict[str, set[WebSocket]] = defaultdict(set)


async def bridge() -> None:
    """Send what is published in a channel to whoever subscribed it."""
    listening = redis.asyncio.from_url(os.environ["REDIS_URL"]).pubsub()
    await listening.psubscribe("bars:*")
    async for message in listening.listen():
        if message["type"] != "pmessage":
            continue
        text = message["data"].decode()
        for socket in list(subscribers[message["channel"].decode()]):
            with suppress(Exception):  # it has gone: its own task forgets it
                await socket.send_text(text)


@asynccontextmanager
async def bridged(_: FastAPI) -> AsyncIterator[None]:
    """Bridge while the app runs."""
    task = asyncio.create_task(bridge())
    yield
    task.cancel()


async def stream(socket: WebSocket) -> None:
    """Subscriptions of one connection."""
    await socket.accept()
    try:
        while True:
            said = msgspec.json.decode(await socket.receive_text())
            subscribers[f"bars:{said['symbol']}"].add(socket)
            await socket.send_text('{"type":"subscribed"}')
    except WebSocketDisconnect:
        pass
    finally:
        for some in subscribers.values():
            some.discard(socket)


app = FastAPI(lifespan=bridged)
app.websocket("/ws")(stream)
