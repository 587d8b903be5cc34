"""Where files are found when the command line does not say."""

from pathlib import Path
from unittest import mock

from rolemesh.config import locate
from rolemesh.config.locate import (
    GATEWAY_FILE,
    NODE_FILE,
    NoConfiguration,
    Sought,
    find_config,
    find_state,
)
from tests.config.written import WrittenTests


class ConfigTests(WrittenTests):
    """The fallback of --config."""

    def setUp(self) -> None:
        super().setUp()
        self.environ: dict[str, str] = {}
        self.patch(locate, "SYSTEM_FOLDER", self.folder / "etc/rolemesh")

    def found(self, explicit: str | None = None, sought: Sought = GATEWAY_FILE) -> str:
        cwd, home = self.folder / "cwd", self.folder / "home"
        path = find_config(sought, explicit, self.environ, cwd, home)
        return str(path.relative_to(self.folder))

    def test_order(self) -> None:
        """Command line, environment, working folder, home, system: the first that has one."""
        self.write("etc/rolemesh/models.yaml")
        self.assertEqual(self.found(), "etc/rolemesh/models.yaml")
        self.write("home/.config/rolemesh/models.yaml")
        self.assertEqual(self.found(), "home/.config/rolemesh/models.yaml")
        self.write("cwd/configs/models.yaml")
        self.assertEqual(self.found(), "cwd/configs/models.yaml")
        self.environ["ROLE_MESH_CONFIG"] = "mine.yaml"
        self.assertEqual(self.found(), "cwd/mine.yaml")
        self.assertEqual(self.found("given.yaml"), "cwd/given.yaml")

    def test_each_program_has_its_own(self) -> None:
        """The node agent has another file and another variable."""
        self.write("cwd/configs/models.yaml")
        self.write("home/.config/rolemesh/node_agent.yaml")
        self.environ["ROLE_MESH_CONFIG"] = "mine.yaml"
        self.assertEqual(self.found(sought=NODE_FILE), "home/.config/rolemesh/node_agent.yaml")
        self.environ["ROLE_MESH_NODE_CONFIG"] = "node.yaml"
        self.assertEqual(self.found(sought=NODE_FILE), "cwd/node.yaml")

    def test_absolute(self) -> None:
        """An absolute path stays as it is."""
        self.assertEqual(self.found(str(self.folder / "x.yaml")), "x.yaml")

    def test_nothing(self) -> None:
        """When there is none, one line lists all that was tried."""
        error = self.assertRaises(NoConfiguration, self.found)
        self.assertEqual(
            str(error),
            "no models.yaml found: --config and $ROLE_MESH_CONFIG are not given, and there is none"
            f" at {self.folder}/cwd/configs/models.yaml,"
            f" {self.folder}/home/.config/rolemesh/models.yaml,"
            f" {self.folder}/etc/rolemesh/models.yaml",
        )

    def test_closed_folder(self) -> None:
        """A folder that we may not look into is as one without a file."""
        with mock.patch("os.stat", side_effect=PermissionError):
            self.assertRaises(NoConfiguration, self.found)


class StateTests(WrittenTests):
    """The fallback of --state."""

    def test_order(self) -> None:
        """The command line, systemd's first folder, home."""
        cwd, home = Path("/cwd"), Path("/home/me")

        def state(explicit: str | None, environ: dict[str, str]) -> Path:
            return find_state(explicit, environ, cwd, home)

        systemd = {"STATE_DIRECTORY": "/var/lib/rolemesh:/var/lib/other"}
        self.assertEqual(state("here", systemd), Path("/cwd/here"))
        self.assertEqual(state(None, systemd), Path("/var/lib/rolemesh"))
        self.assertEqual(state(None, {}), Path("/home/me/.local/state/rolemesh"))
