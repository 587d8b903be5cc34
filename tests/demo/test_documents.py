"""What the README and the deployment page promise to somebody who pastes from them."""

import re
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from rolemesh.config.gateway import load_gateway
from rolemesh.config.node import load_node
from rolemesh.core.errors import KINDS

ROOT = Path(__file__).parents[2]


def page(name: str) -> str:
    path = ROOT / name
    if not path.is_file():
        raise SkipTest(f"{name} is not beside the tests")
    return path.read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


class Pages(SynchronousTestCase):
    """README.md and docs/DEPLOYMENT.md."""

    def test_two_commands(self) -> None:
        """The README has two lines that make an environment: one for the demo, one for tests."""
        lines = re.findall(r"^python3 -m venv .*$", page("README.md"), re.MULTILINE)
        self.assertEqual(len(lines), 2)
        self.assertTrue(lines[0].endswith("rolemesh demo"))
        self.assertTrue(lines[1].endswith("-m twisted.trial tests"))

    def test_configurations_are_taken(self) -> None:
        """Each YAML block is a file that its program takes."""
        for name in ("README.md", "docs/DEPLOYMENT.md"):
            for block in blocks(page(name), "yaml"):
                self.assertTrue(self.take(block))

    def take(self, block: str) -> object:
        """The settings, read where the files and variables that the block names are there."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        for name in re.findall(r"file: ([\w.-]+)", block):
            self.private(folder / name)
        block = block.replace("/srv/models", str(folder))
        load = load_node if block.startswith("gateway: http") else load_gateway
        environ = dict.fromkeys(re.findall(r"env: (\w+)", block), "postgresql://db.lan/rolemesh")
        return load(self.private(folder / "given.yaml", block), environ)

    def private(self, path: Path, text: str = "rmn_something\n") -> Path:
        path.write_text(text)
        path.chmod(0o600)
        return path

    def test_every_code_is_explained(self) -> None:
        """The table of troubles has each code of the one table of errors, and no other."""
        table = page("docs/DEPLOYMENT.md").split("| code | status |")[1]
        named = re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\|[^|]*\|", table, re.MULTILINE)))
        self.assertEqual(set(named), set(KINDS))

    def test_links_lead_somewhere(self) -> None:
        """Every link into the checkout leads to a file that is there."""
        for name in ("README.md", "docs/DEPLOYMENT.md"):
            for link in re.findall(r"\]\(([^)#:]+)\)", page(name)):
                self.assertTrue((ROOT / name).parent.joinpath(link).exists(), f"{name}: {link}")
