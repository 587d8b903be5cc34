"""The promises of `rolemesh.tls.ending`: who hears in time that a certificate ends."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.certificates import new_authority, new_server
from rolemesh.tls.ending import REMIND, Ending, Endings, of_authorities, of_chain

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = timedelta(days=1)


class EndingsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.endings = Endings(self.clock, lambda: NOON.timestamp() + self.clock.seconds())
        self.logged = self.enterContext(capturedLogs())

    def note(self, days: float, place: str = "/etc/gw.pem", node: bool = False) -> None:
        kind = "certificate of node" if node else "certificate"
        self.endings.note(Ending(kind, place, NOON + days * DAY, "renew it", node))

    @property
    def told(self) -> list[str]:
        return [f"{event['path']} {event['ends']}: {event['then']}" for event in self.logged]

    def test_when(self) -> None:
        """Three weeks before its end, and so fourteen days before, it is warned about, and after
        it; the log has the whole path, and who asks hears the file's name."""
        for days, ends in ((21.5, None), (20.5, "expires in 20 days"), (-1.0, "has expired")):
            before = len(self.told)
            self.note(days)
            told = [f"/etc/gw.pem {ends}: renew it"] if ends else []
            self.assertEqual(self.told[before:], told)
            soon = [f"certificate gw.pem {ends}"] if ends else []
            self.assertEqual(self.endings.soon(), soon)

    def test_once_a_day(self) -> None:
        """Who is noted with each connection is told of once a day, and what is new at once."""
        for _ in range(10):
            self.note(10)
        self.assertEqual(self.told, ["/etc/gw.pem expires in 10 days: renew it"])
        self.clock.advance(REMIND)
        self.note(10)
        self.assertEqual(self.told[1:], ["/etc/gw.pem expires in 9 days: renew it"])
        self.note(300)
        self.note(5)
        self.assertEqual(len(self.told), 3)

    def test_time_goes_on(self) -> None:
        """What was far from its end comes near it while nothing is noted anew."""
        self.note(30)
        self.assertEqual(self.endings.soon(), [])
        self.clock.advance(10 * REMIND)
        self.assertEqual(self.endings.soon(), ["certificate gw.pem expires in 20 days"])

    def test_nodes(self) -> None:
        """A node that is no longer there is not told of; another file of the same name is."""
        self.note(3, "box2", node=True)
        self.note(4)
        self.note(5, "/srv/gw.pem")
        ours = ["certificate gw.pem expires in 4 days", "certificate gw.pem expires in 5 days"]
        self.assertEqual(self.endings.soon({"box3"}.__contains__), ours)
        node = "certificate of node box2 expires in 3 days"
        self.assertEqual(self.endings.soon({"box2"}.__contains__), [node, *ours])


class FilesTests(SynchronousTestCase):
    def test_chain(self) -> None:
        """What is shown ends with the first of its certificates."""
        old, young = new_authority("a", NOON - 2000 * DAY), new_authority("b", NOON)
        leaf = new_server(young, ["gw"], NOON)
        chain = (leaf.certificate, young.certificate)
        self.assertEqual(
            of_chain(Path("gw.pem"), chain, "").at, leaf.certificate.not_valid_after_utc
        )
        chain = (young.certificate, old.certificate)
        self.assertEqual(
            of_chain(Path("gw.pem"), chain, "").at, old.certificate.not_valid_after_utc
        )

    def test_authorities(self) -> None:
        """Of CAs the first that ends counts, but for one that has a successor of its name; those
        of the system are not ours to renew."""
        old, new = new_authority("a", NOON - 3000 * DAY), new_authority("a", NOON)
        other = new_authority("b", NOON - 2000 * DAY)
        for pairs, first in (([old], old), ([old, new], new), ([new, old, other], other)):
            found = [pair.certificate for pair in pairs]
            (ending,) = of_authorities(Path("ca.pem"), found, "")
            self.assertEqual(ending.at, first.certificate.not_valid_after_utc)
            self.assertEqual(ending.what, "CA ca.pem")
        many = [old.certificate] * 9
        self.assertEqual(list(of_authorities(Path("ca.pem"), many, "")), [])
