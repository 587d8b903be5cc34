"""The house stands: who imports whom, walked with `ast`; and pages name commands that exist."""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent
STDLIB = sys.stdlib_module_names

# What each room may import; the first that fits holds. Others may import whatever they like.
MAY: Mapping[str, tuple[str, ...]] = {
    "rolemesh.core": ("attrs", "msgspec", "rolemesh.core"),
    "rolemesh.config": ("attrs", "cattrs", "yaml", "rolemesh.core", "rolemesh.config"),
}
NEVER: Mapping[str, tuple[str, ...]] = {
    "rolemesh.gateway": ("rolemesh.node", "rolemesh.cli", "rolemesh.demo"),
    "rolemesh.node": ("rolemesh.gateway", "rolemesh.cli", "rolemesh.demo"),
    "rolemesh.service": ("rolemesh.gateway", "rolemesh.node", "rolemesh.cli", "rolemesh.demo"),
    "rolemesh.logs": ("rolemesh",),
    "rolemesh.tls": ("rolemesh.gateway", "rolemesh.node", "rolemesh.cli", "rolemesh.demo"),
    "rolemesh.certificates": ("twisted", "OpenSSL", "rolemesh.config", "rolemesh.tls"),
    "rolemesh.ownfile": ("rolemesh",),
    "rolemesh.cli": ("rolemesh.gateway", "rolemesh.node"),
}
# Commands open what is kept, and nothing else of a wing; the log looks after its own file and
# hides what errors hide.
BUT: Mapping[str, tuple[str, ...]] = {
    "rolemesh.cli": ("rolemesh.gateway.store",),
    "rolemesh.logs": ("rolemesh.ownfile", "rolemesh.core.redaction"),
}
TAPS = ("rolemesh.gateway.tap", "rolemesh.node.tap")
WIRING = "rolemesh.gateway.wiring"  # all of a gateway, so that its tap alone may import it


@frozen
class Import:
    """That a module imports another; `early` when it does so as soon as it is imported itself."""

    importer: str
    imported: str
    early: bool


def within(module: str, *rooms: str) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def modules() -> dict[str, Path]:
    """Every module of RoleMesh by its name."""
    found = {}
    for path in sorted((ROOT / "rolemesh").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


@cache
def imports() -> tuple[Import, ...]:
    return tuple(_imports())


def _imports() -> Iterator[Import]:
    known = modules()
    for name, path in known.items():
        tree = ast.parse(path.read_bytes())
        late = {id(node) for function in _functions(tree) for node in ast.walk(function)}
        for node in ast.walk(tree):
            for imported in _names(node, known):
                yield Import(name, imported, id(node) not in late)


def _functions(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node


def _names(node: ast.AST, known: Mapping[str, Path]) -> Iterator[str]:
    match node:
        case ast.Import(names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(str(module), names, 0):
            for alias in names:
                whole = f"{module}.{alias.name}"
                yield whole if whole in known or not within(module, "rolemesh") else module
        case ast.ImportFrom():
            raise AssertionError("imports here are absolute")


class LayerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.imports = imports()

    def assert_none(self, breaches: list[Import]) -> None:
        self.assertEqual([f"{each.importer} imports {each.imported}" for each in breaches], [])

    def test_ground(self) -> None:
        """core and config import the standard library, what is named above, and nothing else."""
        self.assert_none(
            [
                each
                for each in self.imports
                for room, allowed in MAY.items()
                if within(each.importer, room)
                if each.imported.partition(".")[0] not in STDLIB
                and not within(each.imported, *allowed)
            ]
        )

    def test_ground_does_not_act(self) -> None:
        """core touches no clock, log, file, socket, process, thread or chance of the library."""
        actors = "asyncio io logging os pathlib random secrets select shutil socket ssl"
        actors += " subprocess tempfile threading time urllib.request"
        self.assert_none(
            [
                each
                for each in self.imports
                if within(each.importer, "rolemesh.core") and within(each.imported, *actors.split())
            ]
        )

    def test_wings(self) -> None:
        """The wings never meet, and nothing below imports what stands above it."""
        self.assert_none(
            [
                each
                for each in self.imports
                for room, never in NEVER.items()
                if within(each.importer, room) and within(each.imported, *never)
                if not within(each.imported, *BUT.get(room, ()))
            ]
        )

    def test_taps(self) -> None:
        """A tap wires its wing: nobody imports it, nor the gateway's wiring, which it does."""
        self.assert_none([each for each in self.imports if within(each.imported, *TAPS)])
        wires = [each for each in self.imports if within(each.imported, WIRING)]
        self.assert_none([each for each in wires if each.importer not in TAPS])

    def test_reactor(self) -> None:
        """The reactor is chosen by who runs the program: no module imports it with itself."""
        reactor = "twisted.internet.reactor"
        self.assert_none(
            [each for each in self.imports if each.early and within(each.imported, reactor)]
        )

    def test_no_circle(self) -> None:
        """No module needs itself in order to be imported, not even by a late import."""
        below = {name: set[str]() for name in modules()}
        for each in self.imports:
            if each.imported in below:
                below[each.importer].add(each.imported)
        while leaves := {name for name, needs in below.items() if not needs & below.keys()}:
            for leaf in leaves:
                del below[leaf]
        self.assertEqual(sorted(below), [])


class PageTests(SynchronousTestCase):
    def test_commands(self) -> None:
        """Each `rolemesh …` that a page tells to type is a command that exists."""
        pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
        typed = re.compile(r"(?:`|^\s*\$? ?|&& |bin/)rolemesh ([a-z][a-z-]*)", re.MULTILINE)
        wrong = [
            f"{page.name}: rolemesh {word}"
            for page in pages
            for word in typed.findall(page.read_text())
            if word not in COMMANDS
        ]
        self.assertEqual(wrong, [])
