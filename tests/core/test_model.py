"""What roles promise where their file says nothing."""

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.model import Role


class DefaultTests(SynchronousTestCase):
    def test_B2_B3_B14_B23_timeouts(self) -> None:
        """Two seconds to connect, five minutes to the first byte, one without an event, an hour."""
        told = Role("coder").timeouts
        self.assertEqual((told.connect, told.first_byte), (2.0, 300.0))
        self.assertEqual((told.idle, told.total), (60.0, 3600.0))

    def test_P5_queue(self) -> None:
        """A queue has an end: 512 requests."""
        self.assertEqual(Role("coder").queue.max, 512)
