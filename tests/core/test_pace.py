"""How fast a backend is thought to be, by what was seen."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.pace import LASTING, UNSURE, Pace


class PaceTests(SynchronousTestCase):
    def test_unseen(self) -> None:
        """One that was not watched is as fast as is usual."""
        self.assertEqual((Pace().rate(700.0), Pace().seen), (700.0, None))

    def test_long_work_is_believed(self) -> None:
        """After ten seconds of work a backend is as fast as it was seen, whatever is usual."""
        self.assertTrue(100.0 < Pace().after(1000, 10.0).rate(1000.0) < 110.0)

    def test_short_work_is_not(self) -> None:
        """Some milliseconds make no difference: they show what else went on, not who is faster."""
        pace = Pace().after(400, 0.01)
        self.assertEqual(pace.seen, 40_000.0)
        self.assertTrue(10_000.0 < pace.rate(10_000.0) < 11_000.0)

    def test_halfway(self) -> None:
        """After a quarter of a second it is thought to be halfway, as ratios go."""
        self.assertAlmostEqual(Pace().after(100 * UNSURE, UNSURE).rate(400.0), 200.0)

    def test_the_latest_counts_most(self) -> None:
        """What a backend has become is known after some more seconds, however long it was else."""
        pace = Pace()
        for _ in range(1000):
            pace = pace.after(1000, 1.0)
        self.assertLessEqual(pace.seconds, LASTING)
        for _ in range(50):
            pace = pace.after(100, 1.0)
        self.assertTrue(100.0 < (pace.seen or 0.0) < 150.0, pace)

    @given(st.lists(st.tuples(st.integers(-5, 10**9), st.floats(-5, 1e6))), st.floats(1e-3, 1e6))
    def test_nonsense(self, works: list[tuple[int, float]], usual: float) -> None:
        """Whatever a backend tells of its speed, it is a positive one."""
        pace = Pace()
        for tokens, seconds in works:
            pace = pace.after(tokens, seconds)
        self.assertGreater(pace.rate(usual), 0.0)
