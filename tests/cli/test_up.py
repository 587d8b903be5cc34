"""`rolemesh up` without what it needs; with all of it, see tests/real/test_join.py."""

from tests.cli.test_init import InitCase


class MissingConfiguration(InitCase):
    """78, and what to do."""

    def test_it_looks_first(self) -> None:
        """Without configuration it does what `rolemesh init` does, and stops where that stops."""
        code, said = self.command("up")
        self.assertEqual(code, 78)
        self.assertIn("no models.yaml and no node_agent.yaml yet", said)
        self.assertIn("there is no model\n", said)
        self.assertFalse((self.home / ".config").exists())

    def test_no_node_file(self) -> None:
        """Of two files only the missing one is written; how to run a gateway alone is said."""
        self.write("home/configs/models.yaml", "roles: {a: http://b}\n")
        code, said = self.command("up")
        self.assertEqual(code, 78)
        self.assertIn("There is no node_agent.yaml yet", said)
        self.assertIn("twistd -n rolemesh-gateway", said)

    def test_a_box_that_joined(self) -> None:
        """It does not become a gateway of its own by mistake."""
        self.write("home/configs/node_agent.yaml", "gateway: http://10.0.0.1:8000\n")
        code, said = self.command("up")
        self.assertEqual(code, 78)
        self.assertIn("belongs to http://10.0.0.1:8000", said)
        self.assertIn("twistd -n rolemesh-node", said)
        self.assertFalse((self.home / "configs/models.yaml").exists())
