"""A node's file that is there already, when its box joins."""

from rolemesh.cli.adapting import Unlike, adapted
from rolemesh.cli.first_files import Mesh
from rolemesh.config.node import load_node
from tests.config.written import WrittenTests

PIN = "sha256:" + "A" * 43 + "="
MESH = Mesh(("http://gw:8000",), "box2", "node.token")
SECURE = Mesh(("https://gw:8000",), "box2", "node.token", PIN)


class AdaptingTests(WrittenTests):
    def adapt(self, text: str, mesh: Mesh = MESH) -> str:
        path = self.write("node_agent.yaml", text)
        return adapted(path, path.read_text(), self.node(text), mesh)

    def refusal(self, text: str, mesh: Mesh = MESH) -> str:
        return str(self.assertRaises(Unlike, self.adapt, text, mesh))

    def test_as_init_wrote_it(self) -> None:
        """The gateway is put in the usual one's place, with what is missing; the rest stays."""
        self.write("node.token", "rmn_x", 0o600)
        text = self.adapt(
            "# mine\ngateway: http://127.0.0.1:8000   # here\nlabels: {a: b}  # site\n", SECURE
        )
        self.assertEqual(
            text,
            "# mine\ngateway: https://gw:8000   # here\nname: box2\ntoken: {file: node.token}\n"
            f'tls: {{pin: "{PIN}"}}\nlabels: {{a: b}}  # site\n',
        )
        settings = load_node(self.write("new.yaml", text), {})
        self.assertEqual((settings.gateways, settings.name), (("https://gw:8000",), "box2"))

    def test_what_it_says_already(self) -> None:
        """Nothing is changed in a file that belongs to that gateway, as after a first run."""
        self.write("t", "rmn_x", 0o600)
        text = "gateway: [http://gw:8000, http://gw2:8000]\nname: box2\ntoken: {file: t}\n"
        self.assertEqual(self.adapt(text), text)

    def test_another_mesh(self) -> None:
        """A node of another gateway, of another name or with other trust stays as it is, and what
        to write is said."""
        said = self.refusal("gateway: http://other:8000\nname: box7\n")
        self.assertIn("belongs to http://other:8000; it calls this node 'box7'", said)
        self.assertIn("  gateway: http://gw:8000\n  name: box2\n  token: {file: node.token}", said)
        other = PIN.replace("A", "B", 1)
        said = self.refusal(f'gateway: https://gw:8000\ntls: {{pin: "{other}"}}\n', SECURE)
        self.assertIn("trusts another key", said)

    def test_ways_of_writing_that_only_people_change(self) -> None:
        """Where there is no plain line to change, it is said as well."""
        for text in ('{"gateway": "http://127.0.0.1:8000"}', "gateway:\n  - http://gw:8000\n"):
            self.assertIn("no line `gateway: URL`", self.refusal(text))
