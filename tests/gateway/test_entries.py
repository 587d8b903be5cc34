"""What a gateway makes of a node's words about a backend."""

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.health import Condition, Health
from rolemesh.core.model import Backend, BackendId, BackendState
from rolemesh.core.report import BackendReport, LastExit
from rolemesh.gateway.entries import Entry


def entry(state: BackendState, **report: object) -> Entry:
    told = BackendReport("gpu0", "http://10.0.0.1:1", state=state, **report)  # type: ignore[arg-type]
    backend = Backend(BackendId("box2", "gpu0"), told.base_url)
    health = Health(condition=Condition.UP)
    return Entry(backend, node_state=state, report=told, health=health)


class NodeStateTests(SynchronousTestCase):
    def test_A3_A8_only_what_is_ready_gets_requests(self) -> None:
        """However healthy it looks from here; every other word is shown as it is."""
        for state in BackendState:
            found = entry(state)
            self.assertEqual(found.ready, state is BackendState.READY)
            self.assertEqual(found.note(0.0), "" if found.ready else state.value)

    def test_A3_why_it_ended_and_when_it_starts_again(self) -> None:
        """Class, the line that tells it, seconds."""
        ended = LastExit("bad_argument: exit code 1", said="error: --frob", retry_in=3.6)
        self.assertEqual(
            entry(BackendState.CRASH_LOOP, last_exit=ended).note(0.0),
            'crash_loop after an exit (bad_argument: exit code 1: "error: --frob"), '
            "next try in 4 s",
        )

    def test_A3_the_next_start_comes_nearer_between_reports(self) -> None:
        """Seconds are counted from when the node told them, and never below none."""
        ended = LastExit("model_missing: no file m.gguf", retry_in=60.0)
        found = entry(BackendState.BACKOFF, last_exit=ended)
        found.hear(found.report, 100.0)
        for now, left in ((100.0, 60), (104.0, 56), (200.0, 0)):
            self.assertIn(f"next try in {left} s", found.note(now))

    def test_A8_an_old_exit_does_not_explain_a_suspect(self) -> None:
        """What it lacks is progress."""
        words = entry(
            BackendState.SUSPECT, progress="no progress for 34 s", last_exit=LastExit("signal")
        ).note(0.0)
        self.assertEqual(words, "suspect, no progress for 34 s")
