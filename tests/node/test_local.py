"""The node's own socket, on a real one."""

import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs
from twisted.trial.unittest import TestCase

from rolemesh.cli.node import NoNode, ask
from rolemesh.core.local import GatewayStanding, NodeStatus, ServerStatus, read_status
from rolemesh.core.model import BackendState
from rolemesh.node.local import MOST_READERS, LocalSocket

STATUS = NodeStatus(
    node="box2",
    version="1",
    gateways=(GatewayStanding("http://gw:8000", "refused", "it refuses us"),),
    servers=(ServerStatus("gpu0", "qwen", BackendState.READY, argv=("llama-server",)),),
)


class LocalSocketTests(TestCase):
    timeout = 120

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()  # trial's own paths are too long for a socket
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "node.sock"

    def open(self, status: Callable[[], NodeStatus] = lambda: STATUS) -> LocalSocket:
        local = LocalSocket(reactor, self.path, status)
        local.startService()
        self.addCleanup(local.stopService)
        return local

    async def test_tells(self) -> None:
        """Who connects is told how the node is, whole, and hung up on."""
        self.open()
        self.assertEqual(read_status(await deferToThread(ask, self.path)), STATUS)

    def test_mode(self) -> None:
        """Owner and group may open it, and nobody else."""
        self.open()
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o660)

    async def test_after_a_crash(self) -> None:
        """What a killed agent left in its place is no hindrance; a clean end leaves nothing."""
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(self.path))
        left.close()
        local = self.open()
        self.assertEqual(read_status(await deferToThread(ask, self.path)), STATUS)
        await local.stopService()
        self.assertFalse(self.path.exists())

    async def test_many_at_once(self) -> None:
        """More readers than a box has are hung up on, and one that leaves makes room."""
        big = NodeStatus("box2", "1", (GatewayStanding("u", "s", "x" * 3_000_000),), ())
        self.open(lambda: big)
        idle = [socket.socket(socket.AF_UNIX) for _ in range(MOST_READERS)]
        for each in idle:
            self.addCleanup(each.close)
            each.connect(str(self.path))
        self.assertEqual(await deferToThread(ask, self.path), b"")
        idle[0].close()
        while not await deferToThread(ask, self.path):
            pass

    def test_a_path_that_is_too_long(self) -> None:
        """A node whose folder cannot have a socket goes on without one, and says so."""
        self.path = self.path.parent / ("x" * 200)
        with capturedLogs() as events:
            self.open()
        told = [each for each in events if "no local socket" in str(each.get("log_format"))]
        self.assertEqual(len(told), 1)

    async def test_nobody(self) -> None:
        """Without a node the reader is told what to look at."""
        error = await self.assertFailure(deferToThread(ask, self.path), NoNode)
        self.assertIn("is the node running", str(error))
