"""`rolemesh join`, where a box's file is in its way."""

import time
from pathlib import Path

from rolemesh.core.invites import Invite, new_invite, write_code
from rolemesh.core.keys import ENTROPY
from tests.cli.test_verbs import CliCase


class JoinTests(CliCase):
    """Against a gateway that answers."""

    def test_broken_file(self) -> None:
        """The problems of a file that is there go to standard error, with exit code 78; nothing is
        asked of the gateway but whether it is there."""
        folder = Path(self.mktemp()).resolve()
        folder.mkdir()
        (folder / "node_agent.yaml").write_text("gateway: http://gw\nrun: [{}]\n")
        key, _ = new_invite(bytes(ENTROPY), "box2", (), time.time(), 60.0)
        code = write_code(Invite((self.url,), "box2", key, int(time.time()) + 60, (), ""))
        ended, output = self.run_command("join", code, "--dir", str(folder))
        self.assertEqual((ended, output), (78, f"The gateway at {self.url} answers\n"))
        self.assertIn(f"{folder / 'node_agent.yaml'}:2:7: run[0]: needs 'model'", self.complaint)
        self.assertEqual([path for path, _, _ in self.server.asked], ["/health"])
