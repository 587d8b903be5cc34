"""The least that the agent takes for a llama-server: `python -I -S small_server.py [ARG…]`.

It forks a child into a session of its own, which nothing but its environment leads to.
"""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer


class Answers(BaseHTTPRequestHandler):
    """What a ready server says."""

    def do_GET(self) -> None:
        key = os.environ["LLAMA_API_KEY"]
        known = self.path == "/health" or self.headers["authorization"] == f"Bearer {key}"
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(json.dumps(self._body()).encode() if known else b"{}")

    def _body(self) -> object:
        props = {"model_alias": argument("--alias"), "total_slots": 1}
        return {"/props": props, "/slots": []}.get(self.path, {})

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


def argument(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def main() -> None:
    """Answer until a signal ends it."""
    if os.fork() == 0:
        os.setsid()
        time.sleep(3600)
    HTTPServer((argument("--host"), int(argument("--port"))), Answers).serve_forever()


if __name__ == "__main__":
    main()
