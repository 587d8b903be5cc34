"""The bad network does what it is told, and nothing else."""

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import TimeoutError
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.doubles import raw
from tests.doubles.blackhole import BlackHole
from tests.doubles.fakellama import Fakellama
from tests.doubles.toxic import Cut, Toxic, Toxin

CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, "stream": True}


class ToxicTests(TestCase):
    def setUp(self) -> None:
        self.fake = Fakellama(reactor)
        self.toxic = Toxic(reactor, self.fake.listen())
        self.addCleanup(lambda: Deferred.fromCoroutine(self.fake.stop()))
        self.addCleanup(self.toxic.stop)

    def post(self) -> Deferred[raw.Answer]:
        return Deferred.fromCoroutine(raw.post(reactor, self.toxic.port, CHAT, ASK))

    async def test_pure_it_passes_every_byte(self) -> None:
        """Without a toxin the answer is the server's."""
        answer = await self.post()
        self.assertEqual(answer.data_lines[-1], b"[DONE]")
        self.assertTrue(answer.finished)

    async def test_latency_delays_but_keeps_the_order(self) -> None:
        """With latency the same bytes come later, the end of the connection last."""
        self.toxic.toxin = Toxin(latency=0.05)
        answer = await self.post()
        self.assertTrue(answer.finished)

    async def test_a_drip_loses_nothing(self) -> None:
        """One byte at a time is still the whole answer."""
        self.toxic.toxin = Toxin(drip=0.0001)
        self.assertTrue((await self.post()).finished)

    async def test_cut_by_fin(self) -> None:
        """After that many bytes the client sees an ordinary end."""
        self.toxic.toxin = Toxin(after=400, cut=Cut.FIN)
        answer = await self.post()
        self.assertEqual((len(answer.data), answer.reset, answer.finished), (400, False, False))

    async def test_cut_by_reset(self) -> None:
        """After that many bytes the client sees a reset."""
        self.toxic.toxin = Toxin(after=400, cut=Cut.RST)
        answer = await self.post()
        self.assertEqual((len(answer.data), answer.reset), (400, True))

    async def test_silence_keeps_the_connection(self) -> None:
        """After that many bytes nothing comes any more, not even an end."""
        self.toxic.toxin = Toxin(after=400, cut=Cut.SILENCE)
        client = await raw.connect(reactor, self.toxic.port)
        client.post(CHAT, ASK)
        while len(client.data) < 400:
            await deferLater(reactor, 0.01)
        await deferLater(reactor, 0.3)
        self.assertEqual((len(client.data), client.closed.called), (400, False))
        client.leave()

    async def test_deaf_it_reads_nothing(self) -> None:
        """The server never hears of a request that is not read."""
        self.toxic.toxin = Toxin(deaf=True)
        client = await raw.connect(reactor, self.toxic.port)
        client.post(CHAT, ASK)
        await deferLater(reactor, 0.1)
        self.assertEqual(self.fake.calls, [])
        client.leave()

    async def test_the_servers_refusal_is_a_reset(self) -> None:
        """A server that is not there cuts the client off."""
        await self.fake.refuse()
        self.assertTrue((await self.post()).reset)


class BlackHoleTests(TestCase):
    async def test_a_connect_neither_succeeds_nor_fails(self) -> None:
        """A connect to a black hole ends by its own timeout alone."""
        hole = BlackHole()
        self.addCleanup(hole.close)
        there = TCP4ClientEndpoint(reactor, "127.0.0.1", hole.port, timeout=0.5)
        await self.assertFailure(connectProtocol(there, raw.RawClient()), TimeoutError)
