"""The `rolemesh` command as a whole: what it tells who mistypes, and what it loads."""

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

from twisted.trial.unittest import SynchronousTestCase

import rolemesh
from rolemesh.cli.main import COMMANDS, MISUSED, main


class MainTests(SynchronousTestCase):
    def ended(self, *arguments: str) -> tuple[object, str, str]:
        """The exit code, and what was written on both outputs."""
        with redirect_stdout(io.StringIO()) as output, redirect_stderr(io.StringIO()) as errors:
            exit_ = self.assertRaises(SystemExit, main, arguments)
        return exit_.code, output.getvalue(), errors.getvalue()

    def test_version(self) -> None:
        """`--version` is RoleMesh's own."""
        self.assertEqual(self.ended("--version"), (0, f"rolemesh {rolemesh.__version__}\n", ""))

    def test_help(self) -> None:
        """The help names each command, and each command has a help of its own."""
        _, whole, _ = self.ended("--help")
        for word in COMMANDS:
            self.assertIn(f"  {word} ", whole)
            code, own, errors = self.ended(word, "--help")
            self.assertEqual((code, errors), (0, ""))
            self.assertIn(f"usage: rolemesh {word} ", own)

    def test_mistakes(self) -> None:
        """A mistake is one line, with the command that was meant."""
        for arguments, told in (
            (("smok", "http://box"), "did you mean 'smoke'?"),
            ((), "COMMAND"),
            (("smoke",), "URL"),
            (("smoke", "box:8000"), "http://127.0.0.1:8000"),
            (("smoke", "http://box:port"), "http://127.0.0.1:8000"),
        ):
            code, output, errors = self.ended(*arguments)
            self.assertEqual((code, output), (MISUSED, ""))
            self.assertIn(told, errors)
            self.assertEqual(errors.count("\n"), 1)

    def test_light(self) -> None:
        """Commands load no reactor before they run."""
        light = "import sys, rolemesh.cli.main; sys.exit('twisted.internet.reactor' in sys.modules)"
        subprocess.run([sys.executable, "-c", light], check=True, timeout=60)
