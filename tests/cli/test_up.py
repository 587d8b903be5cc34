"""`rolemesh up` without what it needs."""

import os
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.cli import up
from rolemesh.cli.main import parser


class MissingConfiguration(SynchronousTestCase):
    """One line, and 78."""

    def up(self, *arguments: str) -> tuple[int, str]:
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        self.patch(os, "environ", {**os.environ, "HOME": str(folder)})
        said, here = StringIO(), Path.cwd()
        os.chdir(folder)
        self.addCleanup(os.chdir, here)
        with redirect_stderr(said):
            return up.run(parser().parse_args(["up", *arguments])), said.getvalue()

    def test_no_gateway_file(self) -> None:
        """The line lists what was tried and names the example to copy."""
        code, said = self.up()
        self.assertEqual((code, said.count("\n")), (78, 1))
        self.assertIn("models.yaml", said)
        self.assertIn("configs/models.example.yaml", said)

    def test_no_node_file(self) -> None:
        """A missing node file is told too, with the way to run a gateway alone."""
        code, said = self.up("--config", "somewhere.yaml")
        self.assertEqual((code, said.count("\n")), (78, 1))
        self.assertIn("configs/node_agent.example.yaml", said)
        self.assertIn("twistd -n rolemesh-gateway", said)
