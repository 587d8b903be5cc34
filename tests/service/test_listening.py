"""The promises of `rolemesh.service.listening`."""

import socket

from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock

from rolemesh.service.exits import NO
from rolemesh.service.listening import Listening
from tests.service.probe import Case


class ListeningTests(Case):
    def test_busy_port(self) -> None:
        """A port that is taken ends the program with 1: one line on standard error, one logged."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            program = self.start(f"tcp:0:interface=127.0.0.1 {endpoint}")
            code, errors = program.end()
        said = f"cannot listen on {endpoint}: Address already in use; free it or choose another"
        self.assertEqual((code, errors), (NO, [said]))
        told = [line["message"] for line in program.lines if line["log.level"] == "critical"]
        self.assertEqual(told, [said])

    def test_stop(self) -> None:
        """Once stopped, nothing is accepted; stopping again is harmless."""
        reactor = MemoryReactorClock()
        listening = Listening(reactor, [("tcp:8000", Factory()), ("tcp:8001", Factory())])
        listening.startService()
        self.assertEqual(len(listening.ports), 2)
        self.successResultOf(listening.stopService())
        self.successResultOf(listening.stopService())
        self.assertEqual(listening.ports, [])
