"""`rolemesh check`, as its users see it."""

import argparse
import io
from contextlib import redirect_stdout
from pathlib import Path

from rolemesh.cli import check
from tests.config.written import WrittenTests
from tests.doubles.weights import gguf


class CheckTests(WrittenTests):
    """Files in, lines and an exit code out."""

    def check(self, *paths: Path) -> tuple[int, list[str]]:
        parser = argparse.ArgumentParser()
        check.register(parser.add_subparsers())
        arguments = parser.parse_args(["check", *map(str, paths)])
        output = io.StringIO()
        with redirect_stdout(output):
            code = arguments.run(arguments)
        return code, output.getvalue().splitlines()

    def test_good_gateway(self) -> None:
        """A gateway's file that can be used is summed up in one line."""
        path = self.write("x.yaml", "roles: {planner: http://a, coder: b}")
        line = f"{path}: a gateway on tcp:8000:interface=127.0.0.1 with 2 roles: planner, coder"
        self.assertEqual(self.check(path), (0, [line]))

    def test_good_node(self) -> None:
        """A node's file is known by its keys, and summed up in one line."""
        self.write("m.gguf")
        text = "gateway: http://gw\nname: box\nllama_server: /bin/sh\nrun: [{model: m, gpu: 0}]\n"
        path = self.write("x.yaml", text)
        line = f"{path}: node box for http://gw with 1 llama-server: gpu0 (m)"
        self.assertEqual(self.check(path), (0, [line]))

    def test_every_problem(self) -> None:
        """Each problem of each file is a line, and any of them makes the exit code 1."""
        one = self.write("one.yaml", "roles: {a: b}\nrols: {}\ngateway: {drain: x}\n")
        good = self.write("good.yaml", "roles: {a: b}")
        two = self.write("two.yaml", "gateway: http://gw\nrun: [{}]\nstop: 5\n")
        code, lines = self.check(one, good, two)
        self.assertEqual(code, 1)
        self.assertEqual(
            lines,
            [
                f"{one}:2:1: unknown key 'rols' in this file - did you mean 'roles'?",
                f"{one}:3:18: gateway.drain: 'x' is not a duration (examples: 30s, 5m, 1h30m)",
                f"{good}: a gateway on tcp:8000:interface=127.0.0.1 with 1 role: a",
                f"{two}:2:7: run[0]: needs 'model'",
                f"{two}:3:7: stop: '5' is not a duration (examples: 30s, 5m, 1h30m)",
            ],
        )

    def test_open_to_all(self) -> None:
        """What keeps a gateway from listening where the file says is a problem of the file."""
        path = self.write("x.yaml", "roles: {a: b}\ngateway: {listen: tcp:8000}")
        code, lines = self.check(path)
        self.assertEqual((code, len(lines)), (1, 1))
        self.assertIn("listening on tcp:8000 without client keys", lines[0])

    def test_warnings(self) -> None:
        """A warning is a line of its own and no reason to fail."""
        path = self.write("x.yaml", "roles: {a: b}", mode=0o664)
        code, lines = self.check(path)
        self.assertEqual(code, 0)
        self.assertIn(f"{path}:1:1: warning: its group may write it", lines[0])

    def test_models_that_are_not_whole(self) -> None:
        """A download under way, and a part that is missing, are problems where they are named."""
        cut = self.write("cut.gguf", gguf()[:-8])
        self.write("m-00001-of-00002.gguf", gguf())
        text = "gateway: http://gw\nname: box\nllama_server: /bin/sh\nrun:\n"
        text += "  - {model: cut}\n  - {model: m, file: m-00001-of-00002.gguf}\n"
        path = self.write("x.yaml", text)
        size = len(gguf())
        told = f"{path}:5:13: run[0].model: {cut} is not whole: has {size - 8} of {size} bytes"
        missing = self.folder / "m-00002-of-00002.gguf"
        other = f"{path}:6:22: run[1].file: there is no file {missing}"
        self.assertEqual(self.check(path), (1, [told, other]))

    def test_files_that_are_none(self) -> None:
        """What cannot be read or is no YAML is told in one line."""
        missing = self.folder / "none.yaml"
        broken = self.write("broken.yaml", "a: [")
        code, lines = self.check(missing, broken)
        self.assertEqual(code, 1)
        self.assertEqual(len(lines), 2)
        self.assertIn("cannot be read", lines[0])
        self.assertIn("not YAML", lines[1])

    def test_files_that_could_be_either(self) -> None:
        """Where the keys do not tell, the name of the file does."""
        self.assertIn("needs 'gateway'", self.check(self.write("node_agent.yaml"))[1][0])
        self.assertIn("lists no roles", self.check(self.write("models.yaml"))[1][0])
        self.assertIn("node box", self.check(self.write("x", "gateway: http://g\nname: box"))[1][0])
