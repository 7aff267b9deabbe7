"""A server that webhooks are posted to: it fails as often as it is told, and keeps what it took."""

import queue
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Hook(NamedTuple):
    """A request."""

    headers: Mapping[str, str]
    body: bytes


class Server:
    def __init__(self) -> None:
        self.taken: queue.Queue[Hook] = queue.Queue()
        self.failing = 0  # requests that are refused first
        self.refused = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook = Hook(dict(self.headers), self.rfile.read(int(self.headers["Content-Length"])))
                if outer.failing:
                    outer.failing -= 1
                    outer.refused += 1
                    self.send_response(503)
                else:
                    outer.taken.put(hook)
                    self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hooks?x=1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.05])

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
