"""The promises of `rolemesh.core.commands`."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.commands import (
    LONGEST_COMMAND,
    LONGEST_RESULT,
    REMEMBERED,
    Command,
    Drained,
    Kind,
    Ledger,
    Result,
    draining,
    fitting,
    is_fresh,
    read_command,
    read_result,
    read_taken,
)
from rolemesh.core.report import encode


class WireTests(SynchronousTestCase):
    """What is read, and what is not."""

    def test_there_and_back(self) -> None:
        """A command and a result are read as they were written."""
        command = Command("c1", Kind.DRAIN, "gpu0", reason="fan", for_s=60.0)
        self.assertEqual(read_command(encode(command)), command)
        result = Result(done=True, lines=("a",), part=3, more=True)
        self.assertEqual(read_result(encode(result)), result)

    def test_A40_strange_commands(self) -> None:
        """Another verb, a name that is a path, a huge one, and no JSON at all are no commands."""
        good = {"id": "c1", "kind": "drain", "backend": "gpu0"}
        for wrong in ({"kind": "run"}, {"backend": "../x"}, {"for_s": -1}, {"id": "a b"}):
            self.assertRaises(
                msgspec.ValidationError, read_command, msgspec.json.encode({**good, **wrong})
            )
        for data in (b"", b"\xff", b"[" * 2000, b" " * LONGEST_COMMAND + b"{}"):
            self.assertRaises(msgspec.MsgspecError, read_command, data)

    def test_A40_an_argv_is_not_read(self) -> None:
        """What is in a command beside what we know leaves no trace."""
        told = msgspec.json.encode({"id": "c1", "kind": "restart", "argv": ["/bin/sh"]})
        self.assertEqual(read_command(told), Command("c1", Kind.RESTART))

    def test_strange_answers(self) -> None:
        """An answer of another shape is refused, not guessed at."""
        self.assertRaises(msgspec.MsgspecError, read_taken, b'{"more": "yes"}')
        self.assertRaises(msgspec.MsgspecError, read_result, b"[]")


class DrainTests(SynchronousTestCase):
    """How long something takes no requests."""

    def test_until(self) -> None:
        """A drain with an end is over at that moment, one without an end never."""
        self.assertEqual([Drained(until=10.0).over(now) for now in (9.9, 10.0)], [False, True])
        self.assertFalse(Drained().over(1e12))

    def test_words(self) -> None:
        """It says why and until when, as far as there is something to say."""
        self.assertEqual(str(Drained("fan", 1.8e9)), "fan, until 2027-01-15 08:00 UTC")
        self.assertEqual(str(Drained()), "")

    def test_node_before_backend(self) -> None:
        """A node's drain is each backend's; what is over counts no more."""
        whole, part, over = Drained("whole"), Drained("part"), Drained("over", 5.0)
        self.assertEqual(draining({None: whole, "gpu0": part}, "gpu0", 9.0), whole)
        self.assertEqual(draining({None: whole}, "gpu1", 9.0), whole)
        self.assertEqual(draining({None: over, "gpu0": part}, "gpu0", 9.0), part)
        self.assertIsNone(draining({None: over, "gpu0": part}, "gpu1", 9.0))


class LedgerTests(SynchronousTestCase):
    """What was done here."""

    def test_once(self) -> None:
        """A command is new once, and has its result from when it is done."""
        ledger, result = Ledger(), Result(done=True)
        self.assertEqual([ledger.begin("a"), ledger.begin("a")], [True, False])
        self.assertIsNone(ledger.result("a"))
        ledger.finish("a", result)
        self.assertEqual((ledger.begin("a"), ledger.result("a")), (False, result))

    def test_bounded(self) -> None:
        """The oldest is forgotten, so that no gateway fills the memory."""
        ledger = Ledger()
        for number in range(REMEMBERED + 1):
            ledger.begin(str(number))
        self.assertEqual([ledger.begin(str(REMEMBERED)), ledger.begin("0")], [False, True])


class PartTests(SynchronousTestCase):
    """A log in parts."""

    @given(st.lists(st.text(max_size=3000), max_size=300), st.integers(0, 5))
    def test_fits(self, lines: list[str], missed: int) -> None:
        """Whatever the lines are, a result with them can be read, and no line is lost untold."""
        told = fitting(lines, missed)
        body = encode(Result(done=True, lines=told, more=True))
        self.assertLessEqual(len(body), LONGEST_RESULT)
        self.assertEqual(read_result(body).lines, told)
        whole = len(told) if len(told) == len(lines) and not missed else len(told) - 1
        left_out = len(lines) - whole + missed
        if left_out:
            self.assertEqual(told[0], f"… {left_out} lines left out")

    def test_fits_at_worst(self) -> None:
        """Two hundred of the longest lines, of what takes most room, are cut down to what fits."""
        told = fitting(['"' * 9000] * 199 + ["last"])
        self.assertLess(len(encode(Result(done=True, lines=told))), LONGEST_RESULT)
        self.assertEqual(told[-1], "last")

    def test_order(self) -> None:
        """A part that was heard is not heard again; a node that begins anew is."""
        heard = [is_fresh(part, last) for part, last in ((0, -1), (1, 0), (1, 1), (0, 0), (0, 4))]
        self.assertEqual(heard, [True, True, False, False, True])
