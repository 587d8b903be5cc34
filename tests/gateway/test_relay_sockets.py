"""What only the kernel's buffers show of `rolemesh.gateway.relay`: rows C2, C3 and P6."""

from tests.doubles.mesh import MeshCase, sleep
from tests.doubles.reply import Call
from tests.doubles.slots import Speed

SLOW = Speed(decode=20)
MANY = 60_000  # events, of more bytes than all the buffers on the way hold


class PressureTests(MeshCase):
    """A client that does not read, on real sockets."""

    async def test_C3_backpressure_reaches_the_backend(self) -> None:
        """A stream that nobody reads stops at its backend, long before it is all with us."""
        fake = self.fake(length=MANY, context=2 * MANY)
        await self.gateway(fake)
        client = await self.begin(stream=True, max_tokens=MANY)
        client.transport.pauseProducing()
        await self.until("the backend is held up", lambda: any(call.pauses for call in fake.work))
        (call,) = fake.work
        await self.until_still(call)
        self.assertLess(call.events, MANY // 2)
        client.transport.resumeProducing()
        self.assertEqual((await client.closed).data_lines[-1], b"[DONE]")

    async def until_still(self, call: Call) -> None:
        """Wait until a backend writes no more."""
        events = -1
        while events != call.events:
            events = call.events
            await sleep(0.2)


class LeavingTests(MeshCase):
    """P6: a client that leaves frees its backend in every phase, however it leaves."""

    async def test_C2_before_the_first_byte(self) -> None:
        """A reset while the backend still says nothing closes that connection."""
        fake = self.fake("hang")
        await self.gateway(fake)
        for stream in (True, False):
            client = await self.begin(stream=stream)
            await self.until("it is asked", lambda: bool(fake.running))
            client.leave()
            await self.until("the backend is free", lambda: not fake.running)
            self.assertEqual(fake.work[-1].outcome, "left")

    async def test_C2_in_the_stream(self) -> None:
        """So does one in the middle of a stream, and one that was to be put together."""
        fake = self.fake(speed=SLOW, length=1000)
        await self.gateway(fake)
        for stream in (True, False):
            client = await self.begin(stream=stream, max_tokens=1000)
            await self.until("events come", lambda: any(call.events > 1 for call in fake.running))
            client.leave()
            await self.until("the backend is free", lambda: not fake.running)
            self.assertEqual(fake.work[-1].outcome, "left")

    async def test_C2_half_closed(self) -> None:
        """A client that closes its own half alone counts as gone."""
        fake = self.fake(speed=SLOW, length=1000)
        await self.gateway(fake)
        client = await self.begin(stream=True, max_tokens=1000)
        await client.seen(b"data:")
        client.transport.loseWriteConnection()
        await self.until("the backend is free", lambda: not fake.running)
        self.assertEqual(fake.work[-1].outcome, "left")
