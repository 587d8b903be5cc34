"""A short run of `tests.bench.chaos`; the long one is for a quiet machine."""

import importlib.util
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.bench.chaos import chaos
from tests.real.harness import need


class ChaosTests(SynchronousTestCase):
    timeout = 240

    def test_A20_P13_random_ends_leave_nothing_and_nothing_twice(self) -> None:
        """Twenty rounds of SIGKILL, SIGTERM and SIGSEGV to the agent or a server."""
        self.play(20, keep=False)

    def test_A20_P13_random_ends_lose_no_server_that_is_kept(self) -> None:
        """Ten rounds with `on_exit: keep`: each is adopted, once, and the last stop ends all."""
        self.play(10, keep=True)

    def play(self, rounds: int, keep: bool) -> None:
        need(sys.platform == "linux", "Linux")
        need(importlib.util.find_spec("psutil") is not None, "psutil")
        outcome = chaos(rounds, entries=2, seed=20, keep=keep)
        self.assertEqual(outcome.rounds, rounds)
        self.assertTrue(outcome.clean, "\n".join(outcome.lines()))
