"""The wire between the wings: what is said arrives, and nothing else is believed."""

import contextlib
import json
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.model import BackendState
from rolemesh.core.report import (
    MAX_BACKENDS,
    Accepted,
    Agent,
    BackendReport,
    GpuReport,
    LastExit,
    RefusedBackend,
    Registration,
    encode,
    read_accepted,
    read_registration,
)

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
TEXTS, LINES, COUNTS = st.text(max_size=256), st.text(max_size=1024), st.integers(0, 2**63 - 1)
WORDS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=256)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
EXITS = st.builds(
    LastExit,
    reason=TEXTS,
    lines=st.lists(LINES, max_size=3).map(tuple),
    retry_in=st.none() | NUMBERS,
)
BACKENDS = st.builds(
    BackendReport,
    id=NAMES,
    base_url=TEXTS,
    key=st.none() | TEXTS,
    model=st.none() | TEXTS,
    roles=st.lists(NAMES, max_size=3).map(tuple),
    slots=st.none() | st.integers(1, 4096),
    context=COUNTS,
    build=TEXTS,
    state=st.sampled_from(BackendState),
    slots_busy=st.none() | COUNTS,
    restarts=COUNTS,
    progress=TEXTS,
    last_exit=st.none() | EXITS,
)
GPUS = st.builds(
    GpuReport, uuid=TEXTS, memory_used=st.none() | COUNTS, power=st.none() | NUMBERS, reason=TEXTS
)
REGISTRATIONS = st.builds(
    Registration,
    node=NAMES,
    base_url=st.none() | TEXTS,
    roles=st.lists(NAMES, max_size=3).map(tuple),
    instance=WORDS,
    generation=COUNTS,
    labels=st.dictionaries(TEXTS, TEXTS, max_size=3),
    backends=st.lists(BACKENDS, max_size=3).map(tuple),
    gpus=st.lists(GPUS, max_size=2).map(tuple),
    agent=st.none() | st.builds(Agent, version=TEXTS),
)


def backend(**facts: Any) -> dict[str, Any]:
    return {"node": "box2", "backends": [{"id": "gpu0", "base_url": "http://h:1", **facts}]}


class RegistrationTests(SynchronousTestCase):
    def refused(self, facts: dict[str, Any], field: str) -> None:
        body = json.dumps(facts).encode()
        error = self.assertRaises(msgspec.ValidationError, read_registration, body)
        self.assertIn(f"`$.{field}`", str(error))

    @given(REGISTRATIONS)
    def test_what_is_said_arrives(self, registration: Registration) -> None:
        """Whatever a node can say, a gateway reads the same."""
        self.assertEqual(read_registration(encode(registration)), registration)

    @given(st.binary(max_size=60))
    @example(b'{"node":"\xff"}')
    @example(b'{"node":"\\ud800"}')
    @example(b'{"new":' + b"[" * 100_000)
    def test_any_bytes(self, body: bytes) -> None:
        """Anything else is an error of msgspec's, never another exception."""
        with contextlib.suppress(msgspec.DecodeError):
            read_registration(body)

    def test_what_a_person_types(self) -> None:
        """A node, an address and roles are enough; that is the plain form."""
        body = b'{"node": "box2", "base_url": "http://10.0.0.12:8080", "roles": ["planner"]}'
        registration = read_registration(body)
        self.assertTrue(registration.plain)
        self.assertEqual((registration.node, registration.roles), ("box2", ("planner",)))
        self.assertFalse(read_registration(b'{"node": "box2", "backends": []}').plain)

    def test_C15_bad_names(self) -> None:
        """Names that could not stand in a header or a path are refused, with the field."""
        for name in ("", "-x", ".x", "a b", "a/b", "a@b", "é", "a\n", "a\r\nb", "x" * 65, 7, None):
            self.refused({"node": name}, "node")
            self.refused({"node": "box2", "roles": ["coder", name]}, "roles[1]")
            self.refused(backend(id=name), "backends[0].id")
            self.refused(backend(roles=[name]), "backends[0].roles[0]")

    def test_unknown_states(self) -> None:
        """A state that we do not know is refused."""
        for state in ("dancing", "READY", "", None, 1):
            self.refused(backend(state=state), "backends[0].state")

    def test_N14_numbers_that_cannot_be(self) -> None:
        """Slots, counts and contexts have bounds."""
        for facts in (
            {"slots": 0},
            {"slots": -1},
            {"slots": 4097},
            {"slots": 2.5},
            {"context": -1},
            {"slots_busy": -1},
            {"restarts": True},
        ):
            self.refused(backend(**facts), f"backends[0].{next(iter(facts))}")
        for generation in (-1, 2**63):
            self.refused({"node": "box2", "generation": generation}, "generation")

    def test_N14_what_no_database_takes(self) -> None:
        """An instance has no control characters: one that cannot be kept would hold up all."""
        for letter in ("\0", "\n", "\x7f"):
            self.refused({"node": "box2", "instance": f"a{letter}"}, "instance")

    def test_what_is_too_long(self) -> None:
        """Texts, lines and lists have an end."""
        one = backend()["backends"][0]
        self.refused({"node": "box2", "backends": [one] * (MAX_BACKENDS + 1)}, "backends")
        self.refused({"node": "box2", "gpus": [{"uuid": "x"}] * 65}, "gpus")
        self.refused({"node": "box2", "labels": {"site": "x" * 257}}, "labels[...]")
        self.refused(backend(base_url="x" * 257), "backends[0].base_url")
        long = {"reason": "killed", "lines": ["x" * 1025]}
        self.refused(backend(last_exit=long), "backends[0].last_exit.lines[0]")

    def test_what_a_later_agent_adds(self) -> None:
        """Fields that we do not know are passed over, so that agents may be newer."""
        self.assertEqual(read_registration(b'{"node": "box2", "new": {"x": 1}}').node, "box2")

    def test_no_key_is_shown(self) -> None:
        """The representation of a backend, as logs show it, has no key in it."""
        report = BackendReport("gpu0", "http://h:1", key="secret")
        self.assertNotIn("secret", repr(Registration("box2", backends=(report,))))


class AcceptedTests(SynchronousTestCase):
    def test_what_is_answered_arrives(self) -> None:
        """Leases, those accepted and those refused with a reason come through."""
        refused = RefusedBackend("gpu1", "role_not_allowed", "box2/gpu1 is not in 'coder'")
        accepted = Accepted("box2", 15.0, 5.0, ("http://gw:8000",), ("gpu0",), (refused,))
        self.assertEqual(read_accepted(encode(accepted)), accepted)

    def test_what_is_no_answer(self) -> None:
        """Without its times it is no answer."""
        self.assertRaises(msgspec.ValidationError, read_accepted, b'{"node": "box2"}')
