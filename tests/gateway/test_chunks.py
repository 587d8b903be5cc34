"""The promises of `rolemesh.gateway.chunks`: what Twisted reads as chunks, and nothing else."""

from random import Random
from typing import Any

from attrs import define, field
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import _ChunkedTransferDecoder, _DataLoss, _MalformedChunkedDataError

from rolemesh.gateway.chunks import LONGEST_LINE, LONGEST_TRAILER, Chunks

SOUND = (
    b"5\r\nhello\r\n0\r\n\r\n",
    b"1\r\na\r\n0C\r\n is a letter\r\n",
    b"5;name=value\r\nhello\r\n000\r\n\r\nHTTP/1.1",
    b"2\r\n\r\n\r\n3\r\n0\r\n\r\n0\r\nx-trailer: yes\r\n\r\n",
    b"C\r\ndata: {}\n\n\r\n\r\n",
)
BROKEN = (
    b"\r\n",
    b"-1\r\na\r\n",
    b"+1\r\na\r\n",
    b"0x1\r\na\r\n",
    b"1_1\r\na\r\n",
    b" 1\r\na\r\n",
    b"1 \r\na\r\n",
    b"1\na\r\n",
    b"1;\x00\r\na\r\n",
    b"1;\x7f\r\na\r\n",
    b"1;\n2\r\na\r\n",
    b"g\r\na\r\n",
    b"1\r\nab\r\n",
    b"1\r\na\n\n",
    b"1\r\na\rb",
    b"5\r\nhello\r\nbye\r\n",
    b"f" * 17 + b"\r\n",
)


@define
class Reading:
    """What came of a body: its bytes, what followed it, and whether it was refused."""

    body: bytes = b""
    rest: bytes | None = None
    refused: bool = False
    deliveries: list[bytes] = field(factory=list, eq=False)


def read(decoder: Any, *pieces: bytes) -> Reading:
    """What a kind of decoder makes of a body that comes in these pieces."""
    reading = Reading()

    def finish(rest: bytes) -> None:
        reading.rest = rest

    reader = decoder(reading.deliveries.append, finish)
    try:
        for piece in pieces:
            if reading.rest is None:
                reader.dataReceived(piece)
            else:
                reading.rest += piece
    except _MalformedChunkedDataError:
        reading.refused = True
    reading.body = b"".join(reading.deliveries)
    return reading


class ChunksTests(SynchronousTestCase):
    def test_as_twisted_reads_it_however_it_comes(self) -> None:
        """A body is the same body, whatever reads it came in."""
        for body in SOUND:
            whole = read(_ChunkedTransferDecoder, body)
            self.assertFalse(whole.refused)
            self.assertEqual(read(Chunks, body), whole)
            for first in range(len(body)):
                for second in range(first, len(body)):
                    pieces = (body[:first], body[first:second], body[second:])
                    self.assertEqual(read(Chunks, *filter(None, pieces)), whole, pieces)

    def test_B13_refused(self) -> None:
        """What is not chunks is refused, in one read or byte by byte."""
        for body in BROKEN:
            single = (body[at : at + 1] for at in range(len(body)))
            self.assertTrue(read(Chunks, body).refused, body)
            self.assertTrue(read(Chunks, b"3\r\nabc\r\n", body).refused, body)
            self.assertTrue(read(Chunks, *single).refused, body)

    def test_nothing_that_twisted_refuses(self) -> None:
        """Of 20 000 bodies with mistakes, what is taken is what Twisted takes it for."""
        random, taken = Random(7), 0
        for _ in range(20_000):
            body = bytearray(random.choice(SOUND))
            for _ in range(random.randint(1, 2)):
                at = random.randrange(len(body))
                body[at : at + random.randint(0, 2)] = random.choice(
                    (b"", b"\r", b"\n", b"\r\n", b";", b"0", b"f", b" ", b"\x00", b"-")
                )
            mine = read(Chunks, bytes(body))
            if not mine.refused:
                taken += 1
                self.assertEqual(mine, read(_ChunkedTransferDecoder, bytes(body)), bytes(body))
        self.assertGreater(taken, 1000)

    def test_B13_what_came_before_a_mistake(self) -> None:
        """Whole chunks before a mistake are delivered."""
        reading = read(Chunks, b"3\r\nabc\r\n3\r\ndef\r\nnonsense\r\n")
        self.assertTrue(reading.refused)
        self.assertEqual(reading.body, b"abcdef")

    def test_one_delivery_for_one_read(self) -> None:
        """What one read brings is delivered in one piece."""
        self.assertEqual(read(Chunks, b"3\r\nabc\r\n3\r\ndef\r\n2\r\ng").deliveries, [b"abcdefg"])

    def test_B13_cut(self) -> None:
        """A body without its last chunk is one that was lost, wherever it ends."""
        body = b"5;x\r\nhello\r\n0\r\nx: y\r\n\r\n"
        for end in range(len(body) + 1):
            chunks = Chunks(lambda _: None, lambda _: None)
            chunks.dataReceived(body[:end])
            if end < len(body):
                self.assertRaises(_DataLoss, chunks.noMoreData)
            else:
                chunks.noMoreData()

    def test_bounds(self) -> None:
        """Neither a size's line nor the fields after a body may go on without end."""
        self.assertTrue(read(Chunks, b"1;" + b"x" * LONGEST_LINE).refused)
        self.assertTrue(read(Chunks, b"0\r\n", *[b"x: " + b"y" * 1000 + b"\r\n"] * 70).refused)
        self.assertTrue(read(Chunks, b"0\r\n" + b"x" * (LONGEST_TRAILER + 1)).refused)

    def test_between(self) -> None:
        """It is known whether the next byte begins a chunk."""
        chunks = Chunks(lambda _: None, lambda _: None)
        for piece, between in (
            (b"3\r\nabc\r\n", True),
            (b"3\r\nab", False),
            (b"c\r", False),
            (b"\n", True),
            (b"3\r\nabc\r\n2", False),
            (b"\r\nab\r\n", True),
            (b"0\r\n", False),
            (b"\r\n", False),
        ):
            chunks.dataReceived(piece)
            self.assertIs(chunks.between, between, piece)
