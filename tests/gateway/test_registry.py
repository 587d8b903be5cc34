"""The promises of `rolemesh.gateway.registry`: rows N3 and L11 among them."""

from rolemesh.core.health import Condition, Sign
from rolemesh.core.model import Backend, BackendId, BackendState, Requirements, Role, Target
from rolemesh.core.report import LastExit
from rolemesh.core.sharing import WINDOW, Share
from rolemesh.core.usage import Timings
from rolemesh.gateway.entries import READ_RATE, USUAL_WORK, Props
from rolemesh.gateway.fleet import FORGET, Fleet
from rolemesh.gateway.registry import Registry
from tests.gateway.registry_case import (
    CODER,
    GPU0,
    GPU1,
    PLAIN,
    RegistryCase,
    full,
    plain,
    report,
)

S = Target(url="http://s")


class ReportTests(RegistryCase):
    """What follows from what nodes say of their backends."""

    def test_full_form(self) -> None:
        """What an agent registers serves the roles of its model, once a check went well."""
        self.tell(full())
        self.assertEqual(self.registry.standing(CODER).ready, 0)
        self.up()
        self.assertEqual(self.registry.standing(CODER).ready, 1)

    def test_plain_form(self) -> None:
        """What a person registers serves the roles it names, listed or not, and has no lease."""
        self.tell(plain())
        self.up(PLAIN)
        self.assertEqual(self.registry.announced(), {"coder"})
        self.pass_time(10 * FORGET)
        self.assertEqual(self.registry.standing(Role("coder")).ready, 1)

    def test_no_announcements(self) -> None:
        """A gateway that takes no announced roles puts nobody in a role but by its model."""
        self.registry = Registry(self.clock, announce=False)
        self.fleet = Fleet(self.clock, self.registry)
        self.tell(full(report(roles=("writer",))))
        self.assertEqual(self.registry.announced(), frozenset())
        self.assertEqual(self.registry.members(Role("writer")), [])
        self.assertEqual(len(self.registry.members(CODER)), 1)

    def test_order_of_preference(self) -> None:
        """Backends have the place of the target that names them, announced ones come last."""
        self.registry.set_static({S: Backend(BackendId("static", "s"), "http://s")})
        self.tell(full(report(), report("gpu1", model="other", roles=("coder",))))
        role = Role("coder", use=(Target(url="http://s"), Target(model="qwen")))
        placed = {str(entry.backend.id): place for place, entry in self.registry.members(role)}
        self.assertEqual(placed, {"static/s": 0, "box2/gpu0": 1, "box2/gpu1": 2})

    def test_static_server_is_no_model_of_a_node(self) -> None:
        """A configured server joins a role by its URL alone, whatever model it is said to serve."""
        static = Backend(BackendId("static", "s"), "http://s", model="qwen")
        self.registry.set_static({S: static})
        self.assertEqual(self.registry.members(CODER), [])

    def test_N3_unchanged_is_idempotent(self) -> None:
        """Registering the same again keeps what is known: health and what is under way."""
        self.tell(full())
        self.up()
        self.registry.take(GPU0, "coder", 1.0)
        self.tell(full(generation=1))
        self.assertEqual((self.entry().in_flight, self.entry().ready), (1, True))

    def test_N3_moved(self) -> None:
        """A backend with another base URL is checked anew, and its old answers still count out."""
        heard: list[BackendId] = []
        self.registry.on_backend.append(lambda entry: heard.append(entry.backend.id))
        self.tell(full())
        self.up()
        self.registry.take(GPU0, "coder", 1.0)
        self.tell(full(report(base_url="http://10.0.0.12:18101"), generation=1))
        self.assertEqual(self.entry().health.condition, Condition.UNKNOWN)
        self.assertEqual(heard, [GPU0, GPU0])
        self.registry.give(GPU0, 1.0)
        self.assertEqual(self.entry().in_flight, 0)

    def test_N3_fewer(self) -> None:
        """A backend that its node names no longer leaves, and those who listen are told."""
        gone: list[BackendId] = []
        self.registry.on_gone.append(gone.append)
        self.tell(full(report(), report("gpu1")))
        self.tell(full(report(), generation=1))
        self.assertIsNone(self.registry.get(GPU1))
        self.assertEqual(gone, [GPU1])
        self.assertEqual(len(self.registry.members(CODER)), 1)


class StateTests(RegistryCase):
    """What a node says of its servers, and what checks and requests show."""

    def test_node_states(self) -> None:
        """Only `ready` is routable, whatever checks say."""
        for generation, state in enumerate(BackendState):
            self.tell(full(report(state=state), generation=generation))
            self.up()
            self.assertEqual(self.entry().ready, state is BackendState.READY, state)

    def test_new_process_is_judged_afresh(self) -> None:
        """A server that its node restarted is not believed to be well or ill before a check."""
        self.tell(full())
        self.registry.sign(GPU0, Sign.REFUSED)
        self.tell(full(report(state=BackendState.LOADING), generation=1))
        self.tell(full(generation=2))
        self.assertEqual(self.entry().health.condition, Condition.UNKNOWN)
        self.up()
        self.assertTrue(self.entry().ready)

    def test_reason_in_words(self) -> None:
        """Progress, or the last exit with the time of the next try, tell why one is not ready."""
        self.tell(full(report(state=BackendState.LOADING, progress="42 %")))
        self.assertIn("loading, 42 %", self.registry.standing(CODER).missing[0])
        exit = LastExit("gpu_memory", retry_in=4.0)
        self.tell(full(report(state=BackendState.BACKOFF, last_exit=exit), generation=1))
        missing = self.registry.standing(CODER).missing[0]
        self.assertIn("gpu_memory", missing)
        self.assertIn("next try in 4 s", missing)

    def test_requirements(self) -> None:
        """A backend with too little context is not ready in a role, and the reason has numbers."""
        self.tell(full(report(context=16384)))
        self.up()
        role = Role("coder", use=CODER.use, require=Requirements(context=65536))
        standing = self.registry.standing(role)
        self.assertEqual(standing.ready, 0)
        self.assertEqual(
            standing.missing,
            ("box2/gpu0 is not in 'coder': 16384 tokens per slot, the role requires 65536",),
        )

    def test_least_context(self) -> None:
        """A role has the least context of its ready backends, and that of no other."""
        told = (report(context=8192), report("gpu1", context=4096))
        self.tell(full(*told))
        self.up()
        self.assertEqual(self.registry.standing(CODER).context, 8192)
        self.up(GPU1)
        self.assertEqual(self.registry.standing(CODER).context, 4096)

    def test_draining(self) -> None:
        """A draining backend takes nothing new."""
        self.tell(full())
        self.up()
        self.entry().draining = True
        self.assertEqual(self.registry.standing(CODER).missing, ("box2/gpu0 is draining",))
        self.assertTrue(self.candidate().draining)

    def test_change_told_once(self) -> None:
        """Waiters are woken when a condition changes, and not by a sign that changes nothing."""
        self.tell(full())
        changes = self.changes
        self.up()
        self.up()
        self.assertEqual(self.changes, changes + 1)

    def test_ejection_ends(self) -> None:
        """An ejected backend is up again when its time is over."""
        self.tell(full())
        self.up()
        for _ in range(5):
            self.registry.sign(GPU0, Sign.BROKE)
        self.assertEqual(self.entry().health.condition, Condition.EJECTED)
        self.pass_time(10)
        self.assertEqual(self.entry().health.condition, Condition.UP)

    def test_read_fills_gaps(self) -> None:
        """What a server says stands where its node says nothing, also after a heartbeat."""
        self.tell(full(report(slots=2)))
        self.registry.read(GPU0, Props(4, 4096, "b1", tools=False))
        self.tell(full(report(slots=2), generation=1))
        backend = self.entry().backend
        self.assertEqual((backend.slots, backend.context, backend.build), (2, 4096, "b1"))
        self.assertEqual((backend.llama_server, backend.tools), (True, False))

    def test_read_again(self) -> None:
        """What a server says later takes the place of what it said before."""
        self.tell(full())
        self.registry.read(GPU0, Props(1, 4096))
        self.registry.read(GPU0, Props(4, 8192))
        self.assertEqual((self.entry().backend.slots, self.entry().backend.context), (4, 8192))

    def test_told_no_more(self) -> None:
        """What is told no more does not stay: the server's own word counts again."""
        self.tell(full(report(slots=2)))
        self.registry.read(GPU0, Props(4))
        self.tell(full(generation=1))
        self.assertEqual(self.entry().backend.slots, 4)

    def test_signs_of_strangers(self) -> None:
        """Late words about a backend that has left are nothing."""
        self.registry.sign(GPU0, Sign.SERVED)
        self.registry.give(GPU0, 1.0)
        self.registry.learn(GPU0, Timings(prompt_n=1, prompt_ms=1.0))
        self.registry.read(GPU0, Props(1, 1))
        self.assertEqual(list(self.registry), [])


class CountTests(RegistryCase):
    """What is under way, and how fast it goes."""

    def setUp(self) -> None:
        super().setUp()
        self.tell(full(report(slots=2)))
        self.up()

    def test_in_flight(self) -> None:
        """Each request counts in and out, and the work ahead is nothing when none is left."""
        self.registry.take(GPU0, "coder", 2.5)
        self.registry.take(GPU0, "coder", 1.0)
        self.assertEqual((self.candidate().in_flight, self.candidate().ahead), (2, 3.5))
        self.assertTrue(self.candidate().full)
        self.registry.give(GPU0, 9.0)
        self.assertEqual((self.candidate().in_flight, self.candidate().ahead), (1, 0.0))
        self.registry.give(GPU0, 1.0)
        self.assertEqual((self.candidate().in_flight, self.candidate().ahead), (0, 0.0))

    def test_never_negative(self) -> None:
        """What began before a backend left still counts when it comes back, and counts out once."""
        self.registry.take(GPU0, "coder", 1.0)
        self.registry.take(GPU0, "coder", 1.0)
        self.fleet.deregister("box2")
        self.registry.give(GPU0, 1.0)
        self.tell(full(report(slots=2)))
        self.assertEqual(self.entry().in_flight, 1)
        self.registry.give(GPU0, 1.0)
        self.assertEqual(self.entry().in_flight, 0)
        self.fleet.deregister("box2")
        self.tell(full(report(slots=2)))
        self.assertEqual(self.entry().in_flight, 0)

    def test_give_tells(self) -> None:
        """A slot that becomes free wakes those who wait."""
        self.registry.take(GPU0, "coder", 1.0)
        changes = self.changes
        self.registry.give(GPU0, 1.0)
        self.assertEqual(self.changes, changes + 1)

    def test_elsewhere(self) -> None:
        """What a node reports busy beyond our own requests takes slots, what is ours does not."""
        self.registry.take(GPU0, "coder", 1.0)
        self.tell(full(report(slots=3, slots_busy=2), generation=1))
        self.assertEqual(self.candidate().elsewhere, 1)
        self.assertFalse(self.candidate().full)
        self.registry.take(GPU0, "coder", 1.0)
        self.assertTrue(self.candidate().full)

    def test_ours_that_ended_are_nobody_elses(self) -> None:
        """Requests that end after a report, or shortly before it, leave their slots free."""
        self.registry.take(GPU0, "coder", 1.0)
        self.registry.take(GPU0, "coder", 1.0)
        self.tell(full(report(slots=2, slots_busy=2), generation=1))
        self.registry.give(GPU0, 1.0)
        self.assertEqual((self.candidate().elsewhere, self.candidate().full), (0, False))
        self.tell(full(report(slots=2, slots_busy=2), generation=2))
        self.assertEqual((self.candidate().elsewhere, self.candidate().full), (0, False))
        self.clock.advance(WINDOW)
        self.tell(full(report(slots=2, slots_busy=2), generation=3))
        self.assertEqual((self.candidate().elsewhere, self.candidate().full), (1, True))

    def test_others_work_counts(self) -> None:
        """Work that other gateways brought weighs as ours does, until a report without it."""
        self.tell(full(report(slots=4, slots_busy=2), generation=1))
        self.assertEqual(self.candidate().ahead, 2 * USUAL_WORK)
        self.registry.take(GPU0, "coder", 3.0)
        self.assertEqual(self.candidate().ahead, 9.0)
        self.tell(full(report(slots=4, slots_busy=1), generation=2))
        self.assertEqual(self.candidate().ahead, 3.0)

    def test_overshoot(self) -> None:
        """Requests that came for slots that were taken meanwhile are counted, until they are."""
        self.registry.take(GPU0, "coder", 1.0)
        self.tell(full(report(slots=2, slots_busy=2, waiting=2), generation=1))
        self.assertEqual(self.entry().share, Share(elsewhere=1, overshoot=2))
        self.tell(full(report(slots=2, slots_busy=2), generation=2))
        self.assertEqual(self.entry().share.overshoot, 0)

    def test_rates(self) -> None:
        """A backend is as fast as it was seen to be, and read rates count in the choice."""
        self.assertEqual((self.entry().reading.seen, self.candidate().read_rate), (None, READ_RATE))
        self.registry.learn(GPU0, Timings(prompt_n=1000, prompt_ms=10_000.0))
        self.assertEqual((self.entry().reading.seen, self.entry().writing.seen), (100.0, None))
        self.assertTrue(100.0 < self.candidate().read_rate < 150.0)
        self.registry.learn(GPU0, Timings(predicted_n=99, predicted_ms=1000.0))
        self.assertEqual((self.entry().reading.seen, self.entry().writing.seen), (100.0, 99.0))


class StaticTests(RegistryCase):
    """L11: what the configuration names, and what a reload makes of it."""

    def put(self, **named: str) -> None:
        """Configured servers by name and URL."""
        told = {
            Target(url=url): Backend(BackendId("static", name), url) for name, url in named.items()
        }
        self.registry.set_static(told)

    def ids(self) -> list[str]:
        return sorted(str(entry.backend.id) for entry in self.registry)

    def test_L11_replaced(self) -> None:
        """A reload removes, adds and keeps; what is kept keeps its health and its requests."""
        self.put(a="http://a", b="http://b")
        kept = BackendId("static", "a")
        self.up(kept)
        self.registry.take(kept, "coder", 1.0)
        self.put(a="http://a", c="http://c")
        self.assertEqual(self.ids(), ["static/a", "static/c"])
        self.assertEqual((self.entry(kept).ready, self.entry(kept).in_flight), (True, 1))

    def test_L11_renamed(self) -> None:
        """The same URL under another name is one new backend."""
        self.put(a="http://a")
        self.put(b="http://a")
        self.assertEqual(self.ids(), ["static/b"])

    def test_L11_swapped(self) -> None:
        """Two names that change places stay two backends."""
        self.put(a="http://1", b="http://2")
        self.put(a="http://2", b="http://1")
        servers = {str(entry.backend.id): entry.server for entry in self.registry}
        expected = {"static/a": Target(url="http://2"), "static/b": Target(url="http://1")}
        self.assertEqual(servers, expected)

    def test_L11_moved(self) -> None:
        """A name with another URL is checked anew."""
        self.put(a="http://1")
        self.up(BackendId("static", "a"))
        self.put(a="http://2")
        self.assertFalse(self.entry(BackendId("static", "a")).ready)

    def test_P1_moved_with_a_request(self) -> None:
        """What is under way there has not been silent since the clock began."""
        self.put(a="http://1")
        self.registry.take(BackendId("static", "a"), "coder", 1.0)
        self.clock.advance(500.0)
        self.put(a="http://2")
        moved = self.entry(BackendId("static", "a"))
        self.assertEqual((moved.in_flight, moved.busy_since), (1, 500.0))

    def test_nodes_stay(self) -> None:
        """A reload takes nothing from nodes."""
        self.tell(full())
        self.put(a="http://a")
        self.put()
        self.assertEqual(self.ids(), ["box2/gpu0"])
