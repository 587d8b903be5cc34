"""What only the kernel's buffers show of `rolemesh.gateway.relay`: rows C2, C3 and P6."""

from typing import Any

from twisted.internet import reactor as _reactor

from rolemesh.gateway.eager import Shortcut
from rolemesh.gateway.lane import Lane
from tests.doubles.mesh import MeshCase, sleep
from tests.doubles.reply import Call
from tests.doubles.slots import Speed

SLOW = Speed(decode=20)
reactor: Any = _reactor


class PressureTests(MeshCase):
    """A client that does not read, on real sockets."""

    async def test_C3_backpressure_reaches_the_backend(self) -> None:
        """A stream that nobody reads stops at its backend, long before it is all with us."""
        fake = self.fake("endless")
        await self.gateway(fake)
        client = await self.begin(stream=True)
        client.transport.pauseProducing()
        await self.until("the backend is held up", lambda: any(call.pauses for call in fake.work))
        (call,) = fake.work
        await self.until("it stays so", lambda: self.is_still(call))
        client.leave()
        await self.until("the backend is free", lambda: not fake.running)

    async def is_still(self, call: Call) -> bool:
        """Whether a backend could write nothing for a while."""
        pauses = call.pauses
        await sleep(0.3)
        return pauses == call.pauses


class LaneTests(MeshCase):
    """Where the events of a stream are read."""

    async def test_by_the_shortcut(self) -> None:
        """A plain stream is read in the lane and goes on from there at once, until its end."""
        fake = self.fake(speed=SLOW, length=20)
        await self.gateway(fake)
        client = await self.begin(stream=True)
        await client.seen(b"data:")
        await self.until("it takes the shortcut", lambda: self.takers() == [Shortcut])
        await client.seen(b"[DONE]")
        await self.until("nothing is left in the lane", lambda: self.takers() == [])

    def takers(self) -> list[type]:
        """Who takes what is read in a lane."""
        lanes = [each for each in reactor.getReaders() if isinstance(each, Lane)]
        places = [place for lane in lanes for place in lane._places.values()]
        return [type(place.take.__self__) for place in places]  # type: ignore[attr-defined]


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
