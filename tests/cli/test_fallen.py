"""What commands that run programs in the foreground say of one that ended: on standard error."""

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.cli import up
from rolemesh.cli.arrival import LOADING_PATIENCE, Arrival
from rolemesh.demo.foreground import Child
from rolemesh.demo.lines import Narrator
from rolemesh.demo.run import Demo, Fell, say


class Ended:
    """Programs of which one has ended with 3, or none has."""

    leaving = False

    def __init__(self, child: Child | None) -> None:
        self.child = child

    async def first_to_end(self) -> Child | None:
        return self.child

    def fallen(self) -> Child | None:
        return self.child

    async def stop(self) -> None:
        """They are ended."""


class FallenTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        child = Child("node", lambda *_: None)
        child.code = 3
        self.ended: Any = Ended(child)
        self.out = self.enterContext(redirect_stdout(io.StringIO()))
        self.err = self.enterContext(redirect_stderr(io.StringIO()))

    def outcome(self, course: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(course))

    def test_up(self) -> None:
        """`up` ends with the code of the first that ended."""
        self.assertEqual(self.outcome(up._until_one_ends(self.ended)), 3)
        self.assertEqual(self.out.getvalue(), "")
        told = "rolemesh up: the node ended with 3, so all stops\n"
        self.assertEqual(self.err.getvalue(), told)

    def test_join(self) -> None:
        """`join` does not wait for an agent that ended."""
        desk: Any = None
        arrived = self.outcome(Arrival(self.clock, self.ended, desk, "token").watch())
        self.assertFalse(arrived)
        self.assertEqual(self.out.getvalue(), "")
        told = "rolemesh join: the node agent ended with 3; its lines say why\n"
        self.assertEqual(self.err.getvalue(), told)

    def test_join_in_vain(self) -> None:
        """Nor for ever for one that does not become ready."""
        lasting: Any = Ended(None)
        desk: Any = None
        arrival = Arrival(self.clock, lasting, desk, "token")

        async def silence() -> None:
            self.clock.advance(LOADING_PATIENCE)

        self.patch(arrival, "_ask", silence)
        watching = Deferred.fromCoroutine(arrival.watch())
        self.clock.advance(1)
        self.assertFalse(self.successResultOf(watching))
        self.assertEqual(self.out.getvalue(), "")
        self.assertIn("rolemesh join: not ready after 30 minutes; ", self.err.getvalue())

    def test_demo(self) -> None:
        """`demo` stops what it began."""
        household: Any = None
        demo = Demo(self.clock, self.ended, household, Narrator(say))

        async def fall(*_: Path) -> None:
            raise Fell("the node ended with 3")

        self.patch(demo, "_start", fall)
        here = Path()
        self.assertEqual(self.outcome(demo.play(here, here, here, once=True)), 1)
        self.assertEqual(self.err.getvalue(), "rolemesh demo: the node ended with 3\n")
        self.assertIn("nothing is left running", self.out.getvalue())
