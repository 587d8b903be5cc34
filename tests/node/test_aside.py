"""Work beside the reactor."""

import threading
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import gatherResults
from twisted.trial.unittest import TestCase

from rolemesh.node.aside import Aside

reactor: Any = installed


class AsideTests(TestCase):
    timeout = 120

    async def test_what_a_job_returns_and_raises_comes_back(self) -> None:
        """A result is a result, an exception a failure; the next job is done all the same."""
        aside = Aside(reactor)
        self.assertEqual(await aside.do(max, 1, 2), 2)
        with self.assertRaises(ZeroDivisionError):
            await aside.do(divmod, 1, 0)
        self.assertEqual(await aside.do(max, 3, 2), 3)

    async def test_jobs_are_done_one_after_the_other(self) -> None:
        """A record is written before it is forgotten."""
        aside, done = Aside(reactor), list[int]()
        await gatherResults([aside.do(done.append, number) for number in range(50)])
        self.assertEqual(done, list(range(50)))

    async def test_a_job_that_hangs_keeps_neither_the_reactor_nor_the_process(self) -> None:
        """Who waits for it gives up when it likes; its thread does not hold the process."""
        aside, release = Aside(reactor), threading.Event()
        self.addCleanup(release.set)
        waiting = aside.do(release.wait)
        late = aside.do(max, 1, 2)
        waiting.cancel()
        self.failureResultOf(waiting)
        threads = [each for each in threading.enumerate() if each.name == "rolemesh aside"]
        self.assertTrue(threads)
        self.assertTrue(all(each.daemon for each in threads))
        release.set()
        self.assertEqual(await late, 2)
