"""What docs/CLIENTS.md tells a reader to paste runs as it stands there."""

import re
from typing import ClassVar

from tests.real.clients import installed
from tests.real.clients.client_case import PATIENCE, ROOT, SILENCE
from tests.real.harness import Program, RealTestCase, Server

PAGE = ROOT / "docs/CLIENTS.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Page(RealTestCase):
    """Its blocks, with the URL of a real gateway in them."""

    gateway: ClassVar[Server]

    @classmethod
    def furnish(cls) -> None:
        server = cls.workshop.llama_server(cls.workshop.model(), "--jinja")
        short = "{set: {max_tokens: 12, max_output_tokens: 12}}"
        role = f"{{use: {server.url}, params: {short}}}"
        cls.gateway = cls.workshop.gateway(f"roles: {{planner: {role}}}")

    def blocks(self, language: str) -> list[str]:
        found = [text for name, text in _BLOCK.findall(PAGE.read_text()) if name == language]
        self.assertTrue(found)
        return [text.replace("http://127.0.0.1:8000", self.gateway.url) for text in found]

    def assert_answers(self, programs: list[Program]) -> None:
        for program in programs:
            self.assertEqual(program.wait(PATIENCE), 0, program.text())
            self.assertGreater(len(program.text().split()), 5, program.text())

    def test_python(self) -> None:
        """Each block of Python prints an answer."""
        environment = {"HOME": str(self.workshop.folder), **SILENCE}
        argv = [str(installed.python()), "-c"]
        start = self.workshop.start
        self.assert_answers(
            [start("python", [*argv, block], **environment) for block in self.blocks("python")]
        )

    def test_node(self) -> None:
        """Each block for Node prints an answer."""
        modules = self.workshop.folder / "node_modules"
        modules.symlink_to(installed.node_modules())
        files = [
            self.workshop.file(f"block{number}.mjs", block)
            for number, block in enumerate(self.blocks("js"))
        ]
        self.assert_answers([self.workshop.start("node", ["node", str(file)]) for file in files])
