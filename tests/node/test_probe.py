"""Asking a llama-server, which here is a resource in memory with the answers of the real one."""

import json
from typing import Any

from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Request

from rolemesh.config.node import Health
from rolemesh.core.vigil import Pulse
from rolemesh.node.calls import Caller
from rolemesh.node.means import Door, Facts, Stranger
from rolemesh.node.probe import Probe

DOOR = Door("127.0.0.1", 18100, "tiny", "ours")
PROPS = {
    "default_generation_settings": {"n_ctx": 2048},
    "total_slots": 2,
    "model_alias": "tiny",
    "build_info": "b11434-unknown",
}


class LlamaServer(Resource):
    """Its public paths, its locked ones, and the key that it wants."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.loading = False
        self.key: str | None = "ours"
        self.props: Any = PROPS
        self.slots: Any = [{"is_processing": True}, {"is_processing": False}]
        self.deferred = 3
        self.asked: list[str] = []

    def render(self, request: Request) -> bytes:
        path = request.path.decode()
        self.asked.append(path)
        if path == "/metrics":
            return b"# TYPE x gauge\nllamacpp:requests_deferred %d\n" % self.deferred
        if self.loading:
            request.setResponseCode(503)
        elif path != "/health" and not self._knows(request):
            request.setResponseCode(401)
        return json.dumps(self._answer(path)).encode()

    def _knows(self, request: Request) -> bool:
        return self.key is None or request.getHeader("authorization") == f"Bearer {self.key}"

    def _answer(self, path: str) -> Any:
        return {"/props": self.props, "/slots": self.slots}.get(path, {"status": "ok"})


class ProbeTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.server, self.clock = LlamaServer(), Clock()
        self.agent = RequestTraversalAgent(self.server)
        self.probe = Probe(Caller(self.agent, self.clock, 2.0), self.clock, Health())
        self.loaded = 0

    def ask(self) -> Deferred[Facts]:
        asking = Deferred.fromCoroutine(self.probe.until_ready(DOOR, self._count_loading))
        self.settle()
        return asking

    def _count_loading(self) -> None:
        self.loaded += 1

    def settle(self, seconds: float = 0) -> None:
        self.clock.advance(seconds)
        for _ in range(5):
            self.agent.flush()


class ReadyTests(ProbeTestCase):
    def test_a_ready_server_tells_what_it_has(self) -> None:
        """Context per slot, slots and build are read from /props, not from our own file."""
        facts = self.successResultOf(self.ask())
        self.assertEqual(facts, Facts(context=2048, slots=2, build="b11434-unknown"))

    def test_a_loading_server_is_asked_again(self) -> None:
        """503 is told as loading each time, until 200."""
        self.server.loading = True
        asking = self.ask()
        self.settle(0.1)
        self.settle(0.2)
        self.assertEqual(self.loaded, 3)
        self.server.loading = False
        self.settle(0.4)
        self.successResultOf(asking)

    def test_the_pauses_grow_to_the_interval(self) -> None:
        """A small model is found in tenths of a second, a large one not asked without end."""
        self.server.loading = True
        self.ask()
        for pause in (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0):
            asked = len(self.server.asked)
            self.settle(pause - 0.05)
            self.assertEqual(len(self.server.asked), asked)
            self.settle(0.051)
            self.assertEqual(len(self.server.asked), asked + 1)

    def test_a_server_that_began_to_load_again_is_asked_again(self) -> None:
        """When /props is silent after a good /health, it is not ready, and no stranger either."""
        self.server.props = None
        answer = self.server.render

        def loading_after_health(request: Request) -> bytes:
            self.server.loading = request.path != b"/health"
            return answer(request)

        self.server.render = loading_after_health  # type: ignore[method-assign]
        self.assertNoResult(self.ask())

    def test_a_cancelled_probe_asks_no_more(self) -> None:
        """Nothing is left on the clock."""
        self.server.loading = True
        asking = self.ask()
        asking.cancel()
        self.failureResultOf(asking)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class StrangerTests(ProbeTestCase):
    def assertStranger(self, why: str) -> None:
        failure = self.failureResultOf(self.ask(), Stranger)
        self.assertEqual(failure.getErrorMessage(), why)

    def test_A4_a_server_that_asks_for_no_key(self) -> None:
        """Whoever lets a wrong key in is not ours, and never sees the true one."""
        self.server.key = None
        self.assertStranger("it does not ask for the key that it was given")
        self.assertEqual(self.server.asked, ["/health", "/props"])

    def test_A4_a_server_with_another_key(self) -> None:
        """A neighbour's llama-server with a key of its own is not ours."""
        self.server.key = "theirs"
        self.assertStranger("it does not know its key")

    def test_A4_a_server_of_another_model(self) -> None:
        """The alias is the model's name in the file; anything else is a stranger."""
        for props in ({**PROPS, "model_alias": "other"}, ["no object"], None):
            self.server.props = props
            self.assertStranger("it serves another model")


class SlotsTests(ProbeTestCase):
    def watch(self) -> list[Pulse]:
        seen: list[Pulse] = []
        Deferred.fromCoroutine(self.probe.watch_slots(DOOR, seen.append))
        self.settle()
        return seen

    def test_busy_slots_are_counted_every_two_seconds(self) -> None:
        """How many slots work is told again and again."""
        seen = self.watch()
        self.server.slots = [{"is_processing": True}] * 2
        self.settle(2)
        self.assertEqual([pulse.busy for pulse in seen], [1, 2])

    def test_waiting(self) -> None:
        """While every slot works, those that wait for one are counted; else nobody waits."""
        seen = self.watch()
        self.assertNotIn("/metrics", self.server.asked)
        self.server.slots = [{"is_processing": True}] * 2
        self.settle(2)
        self.assertEqual([(pulse.busy, pulse.waiting) for pulse in seen], [(1, 0), (2, 3)])

    def test_what_cannot_be_counted_is_unknown(self) -> None:
        """An error, or an answer of another shape, is None and not zero, but it is an answer."""
        self.server.slots = {"error": "this server does not support slots"}
        seen = self.watch()
        self.server.loading = True
        self.settle(2)
        self.assertEqual(seen, [Pulse(answered=True), Pulse(answered=True)])

    def test_A8_no_answer_is_silence(self) -> None:
        """A server that does not answer in time says nothing of its slots."""
        self.agent.request = lambda *_, **__: Deferred()  # type: ignore[method-assign]
        seen = self.watch()
        self.settle(2)
        self.assertEqual(seen, [Pulse()])

    def test_A9_what_was_written_and_read_counts(self) -> None:
        """A token more is progress, a part of the prompt too; the same numbers are none."""
        slot = {"is_processing": True, "id_task": 7, "n_prompt_tokens_processed": 512}
        pulses = []
        for decoded, read in ((0, 512), (0, 1024), (1, 1024), (2, 1024), (2, 1024)):
            token = {"n_decoded": decoded}
            self.server.slots = [{**slot, "n_prompt_tokens_processed": read, "next_token": [token]}]
            pulses += self.watch()
        produced = [pulse.produced for pulse in pulses]
        self.assertEqual(len(set(produced)), 4)
        self.assertEqual(produced[3], produced[4])
        self.assertEqual([pulse.reading for pulse in pulses], [True, True, False, False, False])
