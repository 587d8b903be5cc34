"""What is where: each listener has the routes that it serves, and no others."""

from typing import Any

from twisted.web.resource import Resource

from rolemesh.config.listeners import Listener, Serves
from rolemesh.gateway.edge_request import EdgeRequest
from rolemesh.gateway.front import Front
from tests.gateway.edge_case import Answer, EdgeTestCase, answers


class App(Resource):
    """Says who it is."""

    isLeaf = True

    def __init__(self, name: bytes) -> None:
        super().__init__()
        self._name = name

    def render(self, _: EdgeRequest) -> bytes:
        return self._name


PATHS = {
    Serves.PUBLIC: ("/v1/chat/completions", "/v1/models", "/v1/nodes", "/v1/requests/last", "/"),
    Serves.NODES: ("/v1/nodes/register", "/v1/nodes/box/heartbeat", "/v1/nodes/box/commands"),
    Serves.ADMIN: ("/v1/nodes/box/drain", "/v1/backends/box/gpu0/restart", "/ui/", "/admin/state"),
    Serves.METRICS: ("/metrics",),
}
EVERYWHERE = ("/health", "/ready")


class FrontTests(EdgeTestCase):
    """A gateway's front behind listeners."""

    def setUp(self) -> None:
        super().setUp()
        names = (b"clients", b"nodes", b"operators", b"joins")
        self.build(Front(*(App(name) for name in names)))

    def ask(self, path: str, serves: Any = None, method: str = "GET") -> Answer:
        channel, wire = self.connect()
        channel.listener = Listener("tcp:1", serves=serves)
        channel.dataReceived(f"{method} {path} HTTP/1.1\r\nHost: gw\r\n\r\n".encode())
        (answer,) = answers(wire.value())
        return answer

    def test_everything_by_default(self) -> None:
        """A listener that names nothing serves every route."""
        for path in (*EVERYWHERE, *(path for kind in PATHS.values() for path in kind)):
            self.assertEqual(self.ask(path).status, 200, path)

    def test_one_kind(self) -> None:
        """A listener that names a kind has its routes; of others, not even a hint."""
        for serves in Serves:
            for kind, paths in PATHS.items():
                for path in paths:
                    answer = self.ask(path, frozenset({serves}))
                    if kind is serves:
                        self.assertEqual(answer.status, 200, path)
                    else:
                        self.assertEqual((answer.status, answer.code), (404, "unknown_url"), path)

    def test_other_spellings(self) -> None:
        """A path that is written in another way is the same path."""
        for path in ("/%6detrics", "/v1/nodes%2Fregister", "/%75i/", "/v1/%62ackends/a/b/restart"):
            self.assertEqual(self.ask(path, frozenset({Serves.PUBLIC})).status, 404, path)

    def test_balancers(self) -> None:
        """Every listener can be asked whether it lives."""
        for path in EVERYWHERE:
            self.assertEqual(self.ask(path, frozenset({Serves.METRICS})).status, 200)

    def test_apps(self) -> None:
        """Each path goes to the app that knows it."""
        for path, name in {
            "/v1/models": b"clients",
            "/v1/nodes": b"nodes",
            "/v1/nodes/box/commands/7": b"operators",
            "/v1/backends/box/gpu0/logs": b"operators",
            "/v1/nodesx": b"clients",
        }.items():
            self.assertEqual(self.ask(path).body, name)
        self.assertEqual(self.ask("/v1/nodes/join", method="POST").body, b"joins")
