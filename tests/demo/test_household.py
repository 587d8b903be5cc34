"""The demo's two files: what they say, and that both programs would take them."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.config.gateway import load_gateway
from rolemesh.config.node import load_node
from rolemesh.demo.household import ROLES, Household


class Furnishing(SynchronousTestCase):
    """`Household.furnish` with a model of one's own."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.model = self.folder / "my model.gguf"
        self.model.touch()
        program = self.folder / "llama-server"
        program.touch(mode=0o700)
        house = Household(8123, self.folder, self.model, str(program))
        gateway, node = house.furnish(self.folder)
        self.gateway, self.node = load_gateway(gateway, {}), load_node(node, {})

    def test_roles_are_served(self) -> None:
        """Each of the three roles has a model that the node runs, and two share one."""
        served = {run.model for run in self.node.run}
        models = [self.gateway.roles[role].models() for role in ROLES]
        self.assertTrue(all(each <= served for each in models))
        self.assertEqual(len(models), 3)
        self.assertEqual(len(served), 2)

    def test_own_model_is_used(self) -> None:
        """The user's file and program are run, and its answers are not cut short."""
        run = self.node.run[0]
        self.assertEqual(run.file, self.model)
        self.assertEqual(run.llama_server, (str(self.folder / "llama-server"),))
        self.assertEqual(run.args, ())

    def test_node_asks_this_gateway(self) -> None:
        """The node reports to the demo's own port."""
        self.assertEqual(self.node.gateways, ("http://127.0.0.1:8123",))
