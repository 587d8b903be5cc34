"""The last word of `rolemesh join`."""

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.cli.arrival import summary


class SummaryTests(SynchronousTestCase):
    def test_in(self) -> None:
        """Each role that the node has a part in, with all of its backends."""
        roles = {"coder": {"ready": 2, "total": 2}, "planner": {"ready": 1, "total": 3}}
        told = summary({"node": "box2", "backends": [], "roles": roles})
        self.assertEqual(told, ["box2 is in: coder ready 2/2, planner ready 1/3"])

    def test_of_no_use(self) -> None:
        """A node whose models no role wants is told so, and what to write where."""
        [told] = summary({"node": "box2", "backends": [{"model": "toy"}], "roles": {}})
        self.assertIn("box2 is in, but no role has a use for toy: list one", told)
