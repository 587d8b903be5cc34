"""Who is in a role, who of these is ready, and what is thought of one that has shown nothing."""

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.health import Condition, Health
from rolemesh.core.model import Backend, BackendId, Role, Target
from rolemesh.gateway.entries import READ_RATE, Entry
from rolemesh.gateway.membership import candidates, place, standing

CODER = Role("coder", use=(Target(url="http://a"), Target(model="qwen")))


def entry(name: str, url: str | None = None, **more: object) -> Entry:
    backend = Backend(BackendId("box1", name), "http://127.0.0.1:1", **more)  # type: ignore[arg-type]
    server = None if url is None else Target(url=url)
    return Entry(backend, server=server, health=Health(Condition.UP))


class MembershipTests(SynchronousTestCase):
    def test_place(self) -> None:
        """By its URL, by its node's model, or last because its node says so; or not at all."""
        by_url, by_model = entry("a", "http://a"), entry("b", model="qwen")
        by_word = entry("c", roles=("coder",))
        barred = entry("d", model="qwen", barred=frozenset({"coder"}))
        found = [place(each, CODER, True) for each in (by_url, by_model, by_word, barred)]
        self.assertEqual(found, [0, 1, 2, None])
        self.assertIsNone(place(by_word, CODER, announce=False))

    def test_place_by_model_at_a_url(self) -> None:
        """Where one URL has several models, each role has the backend of its own."""
        one, other = Target(url="http://a", model="one"), Target(url="http://a", model="other")
        found = [Entry(Backend(BackendId("static", "a"), "http://a"), server=one)]
        places = [place(found[0], Role("r", use=(each,)), True) for each in (one, other)]
        self.assertEqual(places, [0, None])

    def test_standing(self) -> None:
        """The ready ones and their least context; of the others, what they lack."""
        members = [(0, entry("a", context=4096)), (0, entry("b", context=2048)), (1, entry("c"))]
        members[2][1].health = evolve(members[2][1].health, condition=Condition.DOWN)
        found = standing(CODER, members, 0.0)
        self.assertEqual((found.ready, found.total, found.context), (2, 3, 2048))
        self.assertEqual(found.missing, ("box1/c is down",))

    def test_lost(self) -> None:
        """One that a request has just lost is not counted as ready, whatever its checks say."""
        members = [(0, entry("a", context=4096)), (0, entry("b", context=2048))]
        found = standing(CODER, members, 0.0, lost=[BackendId("box1", "b")])
        self.assertEqual((found.ready, found.total, found.context), (1, 2, 4096))
        self.assertEqual(found.missing, ("box1/b has just gone away",))

    def test_who_has_shown_nothing_is_tried(self) -> None:
        """One that was not watched yet is thought to read as fast as the fastest of the others."""
        fast, slow, new = entry("a"), entry("b"), entry("c")
        members = [(0, each) for each in (fast, slow, new)]
        rates = [each.read_rate for each in candidates(CODER, members, 0.0, lambda _: (0, 0))]
        self.assertEqual(rates, [READ_RATE] * 3)
        fast.reading = fast.reading.after(50_000, 10.0)
        slow.reading = slow.reading.after(1000, 10.0)
        read = [each.read_rate for each in candidates(CODER, members, 0.0, lambda _: (0, 0))]
        self.assertEqual(read[0], max(read))
        self.assertTrue(read[0] - read[2] < 300 < read[2] - read[1], read)
