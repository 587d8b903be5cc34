"""The promises of `rolemesh.config.exposure`: what is not loopback needs keys."""

from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.config.exposure import exposed, loopback_only
from rolemesh.config.gateway import GatewaySettings, NodeRules
from rolemesh.config.listeners import Listener, Serves

LOOPBACK = (
    "tcp:8000:interface=127.0.0.1",
    "tcp:port=8000:interface=localhost",
    "tcp:8000:backlog=10:interface=127.8.8.8",
    r"tcp:8000:interface=\:\:1",
    r"tcp6:8000:interface=\:\:1",
    r"tcp:8000:interface=\:\:ffff\:127.0.0.1",
    "unix:/run/gateway.sock",
    "unix:address=/run/gateway.sock:mode=600",
    "ssl:8443:interface=127.0.0.1:privateKey=k.pem",
    "haproxy:tcp:8001:interface=127.0.0.1",
)
OPEN = (
    "tcp:8000",
    "tcp:8000:interface=",
    "tcp:8000:interface=0.0.0.0",
    r"tcp:8000:interface=\:\:",
    "tcp:8000:interface=10.0.0.1",
    "tcp:8000:interface=127.0.0.1.example",
    "tcp:8000:interface=localhost.example",
    "tcp:8000:interface=2130706433",
    "tcp:interface:127.0.0.1",
    "ssl:8443:privateKey=k.pem",
    "systemd:domain=INET:index=0",
    "onion:8000:interface=127.0.0.1",
    "haproxy:tcp:8001",
    "haproxy:",
    "haproxy",
    "",
)


class LoopbackTests(SynchronousTestCase):
    """Only what surely is loopback counts as it."""

    def test_loopback(self) -> None:
        """Loopback addresses in their spellings, and unix sockets, are reached from here alone."""
        for endpoint in LOOPBACK:
            self.assertTrue(loopback_only([endpoint]), endpoint)

    def test_open(self) -> None:
        """Everything else, what cannot be judged included, may be reached from elsewhere."""
        for endpoint in OPEN:
            self.assertFalse(loopback_only([endpoint]), endpoint)

    def test_all_of_them(self) -> None:
        """One open endpoint among others is enough."""
        self.assertTrue(loopback_only(LOOPBACK))
        self.assertFalse(loopback_only([*LOOPBACK, OPEN[0]]))


class ExposedTests(SynchronousTestCase):
    """What a listener beyond loopback takes: row C25 and the promise that keys come first."""

    def problems(self, *listeners: Listener, **settings: Any) -> list[str]:
        path = Path("/etc/rolemesh/models.yaml")
        return list(exposed(GatewaySettings(**settings), listeners, path))

    def test_client_keys(self) -> None:
        """Without client keys nothing listens beyond loopback, TLS or not, whatever it serves; the
        way to make one is told."""
        here, there = Listener(LOOPBACK[0]), Listener("tcp:8000")
        self.assertEqual(self.problems(here), [])
        for open_one in (there, Listener("tcp:8000", serves=frozenset({Serves.METRICS}))):
            (problem,) = self.problems(here, open_one)
            self.assertIn("listening on tcp:8000 without client keys", problem)
            self.assertIn("rolemesh keys add --file /etc/rolemesh/keys.yaml", problem)
        self.assertEqual(self.problems(there, keys=Path("keys.yaml")), [])

    def test_balanced(self) -> None:
        """Who listens for a balancer on loopback has clients from elsewhere all the same."""
        (problem,) = self.problems(Listener("haproxy:tcp:8001:interface=127.0.0.1"))
        self.assertIn("without client keys", problem)

    def test_node_tokens(self) -> None:
        """A listener that is meant for nodes takes node tokens to be beyond loopback."""
        nodes = frozenset({Serves.NODES})
        there = Listener("tcp:8001", serves=nodes)
        keys = Path("keys.yaml")
        (problem,) = self.problems(there, keys=keys)
        self.assertIn("serving nodes on tcp:8001 takes node tokens", problem)
        self.assertIn("keys add --file /etc/rolemesh/nodes.yaml --node NAME", problem)
        rules = NodeRules(tokens=Path("nodes.yaml"))
        self.assertEqual(self.problems(there, keys=keys, nodes=rules), [])
        self.assertEqual(self.problems(Listener(LOOPBACK[0], serves=nodes)), [])

    def test_both_at_once(self) -> None:
        """All that is missing is told at once."""
        there = Listener("tcp:8001", serves=frozenset({Serves.NODES}))
        self.assertEqual(len(self.problems(there)), 2)
