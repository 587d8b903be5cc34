"""What a gateway knows of the others, on a clock and a store in memory."""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.gateway.company import BEAT, DUTY_EVERY, RETRY, Company
from rolemesh.gateway.store.interface import Meeting
from rolemesh.gateway.store.memory import MemoryStore
from tests.gateway.store.suite import ignore

US, THEM = "http://gw1.lan:8000", "http://gw2.lan:8000"


class SharedStore(MemoryStore):
    """Tells what the test says; `met` are the gateways that came, `left` those that went."""

    def __init__(self) -> None:
        super().__init__()
        self.meeting = Meeting((US, THEM), 2, leads=False)
        self.met: list[tuple[str, str | None]] = []
        self.left: list[str] = []

    async def meet(self, gateway: str, url: str | None) -> Meeting:
        self.met.append((gateway, url))
        self._must_be_open()
        return self.meeting

    async def leave(self, gateway: str) -> None:
        self._must_be_open()
        self.left.append(gateway)


class CompanyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.store = Clock(), SharedStore()
        self.successResultOf(Deferred.fromCoroutine(self.store.open(ignore, ignore)))
        self.done = 0
        self.company = Company(self.clock, self.store, "id", US, self.duty)

    async def duty(self) -> None:
        self.done += 1

    def test_beats(self) -> None:
        """It says that it is there at once and then every five seconds, until it goes."""
        self.company.startService()
        self.clock.pump([BEAT] * 2)
        self.assertEqual(self.store.met, [("id", US)] * 3)
        self.assertEqual(self.company.now.urls, (US, THEM))
        self.company.stopService()
        self.clock.pump([BEAT] * 2)
        self.assertEqual((len(self.store.met), self.store.left), (3, ["id"]))

    def test_before_the_first_word(self) -> None:
        """Until the store has spoken, it knows of itself."""
        self.assertEqual(self.company.now, Meeting((US,), 1, leads=False))
        self.assertEqual(Company(self.clock, self.store, "id", None, self.duty).now.urls, ())

    def test_L4_store_away(self) -> None:
        """While the store is away the others are believed to be there still, and nobody leads; it
        is tried again each second."""
        self.store.meeting = Meeting((US, THEM), 2, leads=True)
        self.company.startService()
        self.assertTrue(self.company.now.leads)
        self.store.failing = "away"
        self.clock.advance(BEAT)
        self.assertEqual(self.company.now, Meeting((US, THEM), 2, leads=False))
        self.clock.advance(RETRY)
        self.assertEqual(len(self.store.met), 3)
        self.company.stopService()

    def test_duty(self) -> None:
        """The one that leads does the duty at once and then once an hour, the others never."""
        self.company.startService()
        self.clock.pump([BEAT] * 3)
        self.assertEqual(self.done, 0)
        self.store.meeting = Meeting((US, THEM), 2, leads=True)
        self.clock.advance(BEAT)
        self.assertEqual(self.done, 1)
        self.clock.pump([BEAT] * int(DUTY_EVERY / BEAT - 1))
        self.assertEqual(self.done, 1)
        self.clock.pump([BEAT] * 2)
        self.assertEqual(self.done, 2)

    def test_a_bug_in_the_duty(self) -> None:
        """What breaks is logged, and the beat goes on."""

        async def broken() -> None:
            raise ZeroDivisionError

        self.store.meeting = Meeting((), 1, leads=True)
        self.company = Company(self.clock, self.store, "id", US, broken)
        self.company.startService()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.clock.advance(BEAT)
        self.assertEqual(len(self.store.met), 2)
