"""The promises of `rolemesh.gateway.listening`: what is not loopback needs keys."""

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.gateway.listening import loopback_only

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
