"""What is installed: the wheel's files, its metadata, and twistd finding both plugins."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from configparser import ConfigParser
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from zipfile import ZipFile

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parent.parent
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
ALONE = ("--no-deps", "--no-build-isolation", "--ignore-installed")
TWISTD = "from twisted.scripts.twistd import run; run()"
PATIENCE = 120  # seconds


def output_of(*command: str, folder: Path) -> str:
    """What a command says; it must succeed. Nothing of the checkout is on its path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        text=True,
        timeout=PATIENCE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


class Case(SynchronousTestCase):
    """Has a copy of what is packaged, as a build writes beside it."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.copy = self.folder / "copy"
        unwanted = shutil.ignore_patterns("__pycache__", "dropin.cache")
        for name in ("rolemesh", "twisted"):
            shutil.copytree(ROOT / name, self.copy / name, ignore=unwanted)
        for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, self.copy)


class SupplyTests(SynchronousTestCase):
    """What comes along when RoleMesh is installed."""

    def requirements(self) -> list[str]:
        config = ConfigParser()
        config.read(ROOT / "setup.cfg")
        lines = config["options"]["install_requires"].splitlines()
        return [line for line in lines if line and not line.startswith("#")]

    def test_LiteLLM_1_82_7_few_dependencies(self) -> None:
        """Eleven libraries, each with a floor and from the index alone; no more come unseen."""
        named = [line.split()[0].partition("[")[0] for line in self.requirements()]
        users = "twisted treq klein pyyaml attrs nvidia-ml-py service-identity"
        ours = "msgspec psutil pyopenssl cryptography"
        self.assertEqual(set(named), {*users.split(), *ours.split()})
        for line in self.requirements():
            self.assertIn(" >= ", line)
            self.assertNotIn("@", line)

    def test_Twisted_floor(self) -> None:
        """The first Twisted with the answers to all its advisories that we know is the least."""
        self.assertIn("twisted[tls] >= 26.4", self.requirements())


class WheelTests(Case):
    def test_wheel_LiteLLM_1_82_7(self) -> None:
        """The wheel has every file of both packages and no other; its metadata are ours."""
        output_of(*PIP, "wheel", *ALONE[:2], str(self.copy), folder=self.folder)
        [wheel] = self.folder.glob("*.whl")
        with ZipFile(wheel) as archive:
            names = {name for name in archive.namelist() if ".dist-info/" not in name}
            [metadata] = [name for name in archive.namelist() if name.endswith("/METADATA")]
            told = BytesParser().parsebytes(archive.read(metadata))
        self.assertEqual(names, set(self.packaged()))
        self.assert_nothing_runs_by_itself(names)
        self.check(told)

    def assert_nothing_runs_by_itself(self, names: set[str]) -> None:
        """LiteLLM 1.82.7: a `.pth` file runs in every Python of an environment."""
        kinds = {Path(name).suffix for name in names} - {".py", ".sql", ".typed"}
        self.assertEqual(kinds, set())
        self.assertEqual({name.split("/")[0] for name in names}, {"rolemesh", "twisted"})
        self.assertFalse([name for name in names if "customize" in name])

    def packaged(self) -> list[str]:
        folders = (self.copy / "rolemesh", self.copy / "twisted")
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return [str(path.relative_to(self.copy)) for path in files]

    def check(self, told: Message) -> None:
        self.assertEqual(told["Name"], "rolemesh")
        self.assertEqual(told["License-Expression"], "MIT")
        self.assertEqual(told["License-File"], "LICENSE")
        self.assertEqual(told["Requires-Python"], ">=3.11")
        self.assertEqual(told.get_all("Provides-Extra"), ["demo", "postgres", "test"])


class InstallTests(Case):
    def install(self, *how: str) -> Path:
        """The Python of a new environment with RoleMesh in it, and what it needs beside it."""
        environment = self.folder / "environment"
        venv.create(environment, symlinks=True)
        python = environment / "bin/python"
        libraries = output_of(
            str(python),
            "-c",
            "import sysconfig; print(sysconfig.get_path('purelib'))",
            folder=self.folder,
        )
        (Path(libraries.strip()) / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
        output_of(*PIP, "--python", str(python), "install", *ALONE, *how, folder=self.folder)
        return python

    def check(self, python: Path) -> None:
        listed = output_of(str(python), "-c", TWISTD, "--help", folder=self.folder)
        for plugin in ("rolemesh-gateway", "rolemesh-node"):
            self.assertEqual(listed.count(f" {plugin} "), 1, listed)
        command = python.with_name("rolemesh")
        self.assertIn("rolemesh ", output_of(str(command), "--version", folder=self.folder))

    def test_install(self) -> None:
        """`pip install .` has twistd list both plugins, once, and makes the command."""
        self.check(self.install(str(self.copy)))

    def test_editable_install(self) -> None:
        """`pip install -e .` does the same; twistd cannot see an import hook."""
        self.check(self.install("--editable", str(self.copy)))
