"""`rolemesh demo` says in one line why it cannot start."""

import socket
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.cli import demo
from rolemesh.cli.main import parser


class Refusals(SynchronousTestCase):
    """What is known before anything is started."""

    def refusal(self, *arguments: str) -> str:
        with self.assertRaises(demo.Impossible) as caught:
            demo._household(parser().parse_args(["demo", *arguments]))
        return str(caught.exception)

    def test_port_in_use(self) -> None:
        """A busy port is named, with the way out."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            said = self.refusal("--port", str(port))
        self.assertEqual(said, f"port {port}: Address already in use; choose another with --port")

    def test_impossible_port(self) -> None:
        """A number that is no port is no traceback."""
        self.assertIn("port 70000: not a port", self.refusal("--port", "70000"))

    def test_missing_model(self) -> None:
        """A model file that is not there is named."""
        self.assertIn("/nowhere.gguf", self.refusal("--model", "/nowhere.gguf"))

    def test_model_of_another_kind(self) -> None:
        """A file that is no GGUF is told before a server tries to load it."""
        self.assertIn("is not a GGUF file", self.refusal("--model", __file__))

    def test_missing_program(self) -> None:
        """A llama-server that cannot be run is named."""
        self.assertIn("/nowhere", self.refusal("--llama-server", "/nowhere"))

    def test_missing_extra(self) -> None:
        """Without the extra, the line says how to install it."""
        self.patch(demo, "find_spec", lambda _name: None)
        said = self.refusal("--port", "0")
        self.assertIn("xllamacpp and gguf and numpy not installed; pip install", said)

    def test_missing_system_library(self) -> None:
        """A wheel that is there but cannot be loaded is told with the loader's own words."""

        def fail(_name: str) -> None:
            raise ImportError("libgomp.so.1: cannot open shared object file")

        self.patch(demo, "find_spec", lambda _name: object())
        self.patch(demo, "import_module", fail)
        said = self.refusal("--port", "0")
        self.assertIn("xllamacpp: libgomp.so.1: cannot open shared object file; install", said)

    def test_own_parts_need_no_extra(self) -> None:
        """With one's own model and program nothing of the extra is needed."""
        self.patch(demo, "find_spec", lambda _name: None)
        file = Path(self.mktemp())
        file.write_bytes(b"GGUF and so on")
        given = ["demo", "--port", "0", "--model", str(file), "--llama-server", "sh"]
        house = demo._household(parser().parse_args(given))
        self.assertEqual(house.model, file.resolve())
