"""Several gateways over one backend: each with its own count and the node's reports, no more."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.sharing import ON_THE_WAY, WINDOW, Peak, Share, share


class PeakTests(SynchronousTestCase):
    def test_lately(self) -> None:
        """The most at one time, until that is long enough ago."""
        peak = Peak()
        self.assertEqual(peak.lately(0.0), 0)
        for now, count in ((0.0, 1), (1.0, 4), (2.0, 2)):
            peak.saw(count, now)
        self.assertEqual(peak.lately(2.0), 4)
        self.assertEqual(peak.lately(2.0 + WINDOW - 0.1), 4)
        self.assertEqual(peak.lately(2.0 + WINDOW), 2)
        self.assertEqual(peak.lately(1e6), 2)

    @given(st.lists(st.tuples(st.floats(0, 4), st.integers(0, 4)), max_size=30))
    def test_as_if_all_was_kept(self, steps: list[tuple[float, int]]) -> None:
        """It forgets only what can no longer be the most."""
        peak, now, history = Peak(), 0.0, [(0.0, 0)]
        for pause, count in steps:
            now += pause
            peak.saw(count, now)
            history.append((now, count))
            ends = [when for when, _ in history[1:]] + [float("inf")]
            at_window = zip(history, ends, strict=True)
            most = max(held for (_, held), end in at_window if end > now - WINDOW)
            self.assertEqual(peak.lately(now), most)
            self.assertEqual(peak.lately(now, 2 * WINDOW), most)

    def test_age(self) -> None:
        """A report that says when it saw what it tells is compared with what was ours then."""
        peak = Peak()
        for now, count in ((0.0, 4), (1.0, 2), (2.0, 1)):
            peak.saw(count, now)
        ages = (0.0, 0.2 - ON_THE_WAY + 0.5, 1.5)
        self.assertEqual([peak.lately(2.5, age) for age in ages], [1, 2, 4])


class ShareTests(SynchronousTestCase):
    def test_beyond_ours(self) -> None:
        """What is told beyond our own requests is others', and never less than nothing."""
        self.assertEqual(share(3, own=1, slots=4), Share(2))
        self.assertEqual(share(1, own=3, slots=4), Share(0))
        self.assertEqual(share(9, own=3, slots=None), Share(6))

    def test_N14_one_slot_is_left_to_everybody(self) -> None:
        """A node that says that it is busy beyond measure, or another gateway that takes all, does
        not stop ours."""
        self.assertEqual(share(4, own=0, slots=4), Share(3))
        self.assertEqual(share(999, own=0, slots=4), Share(3, overshoot=995))
        self.assertEqual(share(5, own=0, slots=1), Share(0, overshoot=4))

    def test_too_many(self) -> None:
        """Where two gateways each filled all slots, each gives half of them way."""
        self.assertEqual(share(8, own=4, slots=4), Share(2, overshoot=4))

    @given(st.lists(st.integers(0, 16), min_size=1, max_size=5), st.integers(1, 16))
    def test_all_slots_and_little_more(self, owns: list[int], slots: int) -> None:
        """After one report, gateways that fill up what they see free overshoot by no more than one
        request each; a gateway alone always has all slots."""
        told = sum(owns)
        rooms = [slots - share(told, own, slots).elsewhere for own in owns]
        filled = sum(max(min(own, room), 1) for own, room in zip(owns, rooms, strict=True))
        self.assertLessEqual(filled, slots + len(owns))
        if told <= slots:
            self.assertTrue(all(room >= own for own, room in zip(owns, rooms, strict=True)))
        if len(owns) == 1:
            self.assertEqual(rooms, [slots])
