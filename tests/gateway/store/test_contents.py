"""The promises of `rolemesh.gateway.store.contents`."""

from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.keys import ENTROPY, KeyKind, mint, revoke
from rolemesh.gateway.store.contents import Contents, copying

KEY = mint(KeyKind.CLIENT, bytes(ENTROPY), 1_000_000)[1]
SPOT = ("2026-11-22", "rmk_a", "coder", "here")


def node(at: float, name: str = "box2") -> tuple[Any, ...]:
    """A row as it lies in the table."""
    return (name, "one", 1, "{}", "10.0.0.2", None, at)


FIGURES = st.tuples(*[st.integers(0, 9)] * 4)
CONTENTS = st.builds(
    Contents,
    st.dictionaries(st.sampled_from(["box2", "box3"]), st.integers(0, 9).map(node)),
    st.dictionaries(
        st.sampled_from(["rmk_a", "rmk_b"]),
        st.sampled_from([KEY, revoke(KEY), evolve(KEY, roles="*")]),
    ),
    st.dictionaries(st.sampled_from([SPOT, (*SPOT[:3], "there")]), FIGURES),
)


def put(target: Contents, wanted: Contents) -> Contents:
    """A target after a copy."""
    both = zip(target.parts.values(), wanted.parts.values(), strict=True)
    return Contents(*({**there, **new} for there, new in both))


class CopyingTests(SynchronousTestCase):
    """What a copy puts where."""

    def test_into_nothing(self) -> None:
        """All that there is goes into an empty place, and the next copy finds nothing to do."""
        source = Contents({"box2": node(1)}, {KEY.id: KEY}, {SPOT: (1, 2, 3, 4)})
        plan = copying(source, Contents())
        self.assertEqual((plan.wanted, plan.own, plan.otherwise), (source, (), ()))
        self.assertEqual(copying(source, source).wanted, Contents())

    def test_told(self) -> None:
        """What the target has of its own, or otherwise, is told in numbers."""
        target = Contents({"box2": node(2)}, {KEY.id: KEY})
        plan = copying(Contents({"box2": node(1)}), target)
        self.assertEqual(plan.own, ("keys and tokens: 1",))
        self.assertEqual(plan.otherwise, ("registrations: 1",))

    def test_later_registration(self) -> None:
        """Of two registrations the later one holds."""
        for there, expected in ((1, {"box2": node(2)}), (3, {})):
            plan = copying(Contents({"box2": node(2)}), Contents({"box2": node(there)}))
            self.assertEqual(plan.wanted.nodes, expected)

    def test_revoked_stays(self) -> None:
        """A key that is revoked at either place is revoked afterwards; else the target's holds."""
        wide, ended = evolve(KEY, roles="*"), revoke(KEY)
        for one, there, expected in (
            (wide, KEY, {}),
            (revoke(wide), KEY, {KEY.id: ended}),
            (KEY, ended, {}),
        ):
            plan = copying(Contents(keys={KEY.id: one}), Contents(keys={KEY.id: there}))
            self.assertEqual(plan.wanted.keys, expected)

    def test_counted_once(self) -> None:
        """Figures that one database counted are never added to themselves; others' are kept."""
        theirs = (*SPOT[:3], "there")
        target = Contents(counts={SPOT: (5, 1, 1, 1), theirs: (7, 7, 7, 7)})
        plan = copying(Contents(counts={SPOT: (3, 9, 1, 1)}), target)
        self.assertEqual(plan.wanted.counts, {SPOT: (5, 9, 1, 1)})

    @given(CONTENTS, CONTENTS)
    def test_nothing_lost(self, source: Contents, target: Contents) -> None:
        """After any copy both places' nodes, keys and figures are there, no revoked key opens
        again, no figure shrinks, and the same copy again changes nothing."""
        after = put(target, copying(source, target).wanted)
        for before in (source, target):
            for name, part in before.parts.items():
                self.assertLessEqual(part.keys(), after.parts[name].keys())
            for id, key in before.keys.items():
                self.assertTrue(after.keys[id].disabled or not key.disabled)
            for spot, figures in before.counts.items():
                self.assertEqual(after.counts[spot], tuple(map(max, after.counts[spot], figures)))
        self.assertEqual(copying(source, after).wanted, Contents())
