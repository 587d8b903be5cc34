"""Arguments in a node's file against what the program takes that gets them."""

import os
import sys
from pathlib import Path
from time import monotonic, sleep

from rolemesh.cli.program_options import Helps, Unheard, check_arguments
from rolemesh.config.node import load_node
from rolemesh.config.problems import ConfigError
from tests.config.written import WrittenTests
from tests.real.harness import LLAMA_SERVER

HELP = """\
#!/bin/sh
echo run >> {folder}/runs
echo '-m,    --model FNAME                    model path to load'
echo '-fa,   --flash-attn [on|off|auto]       set Flash Attention use'
echo '--jinja                                 use jinja templates'
exit 1
"""


def _state_of(pid: int) -> str:
    """Linux's letter for it, nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return ""


class ArgumentTests(WrittenTests):
    """A program of our own, and the real launcher."""

    def setUp(self) -> None:
        super().setUp()
        self.write("m.gguf")
        self.program = self.write("llama-server", HELP.format(folder=self.folder), 0o755)
        self.helps = Helps(os.environ)

    def problems(self, run: str) -> list[str]:
        """Problems and warnings as `line:col: text`."""
        path = self.write(
            "n.yaml", f"gateway: http://gw\nllama_server: {self.program}\nrun:\n{run}"
        )
        try:
            found = check_arguments(path, load_node(path, {}), os.environ, self.helps)
        except ConfigError as error:
            found = error.problems
        return [str(each).removeprefix(f"{path}:") for each in found]

    def runs(self) -> int:
        return (self.folder / "runs").read_text().count("run")

    def test_unknown_arguments(self) -> None:
        """Each is told where it stands, with the nearest that there is."""
        told = self.problems("  - {model: m, args: [--flsh-attn, on, --jinja, --qqqqqqq]}\n")
        self.assertEqual(
            told,
            [
                "4:23: run[0].args[0]: this llama-server has no argument '--flsh-attn'"
                " - did you mean '--flash-attn'?",
                "4:49: run[0].args[3]: this llama-server has no argument '--qqqqqqq'",
            ],
        )

    def test_one_argument_without_a_list(self) -> None:
        """It is told where it stands as well."""
        told = self.problems("  {model: m, args: --jnja}\n")
        self.assertEqual(told[0][:5], "4:20:")

    def test_asked_once(self) -> None:
        """Several entries, and several files, ask a program once; a new program is asked again."""
        entry = "  - {model: m, args: [--jinja]}\n"
        self.assertEqual(self.problems(entry + entry), [])
        self.assertEqual(self.problems(entry), [])
        self.assertEqual(self.runs(), 1)
        os.utime(self.program, (1, 1))
        self.assertEqual(self.problems(entry), [])
        self.assertEqual(self.runs(), 2)

    def test_nothing_to_check(self) -> None:
        """Without arguments no program is run."""
        self.assertEqual(self.problems("  - {model: m}\n"), [])
        self.assertFalse((self.folder / "runs").exists())

    def test_a_program_that_is_not_there(self) -> None:
        """It is a warning, as it may come later; also where there is nothing to ask it."""
        self.program = Path("llama-nowhere")
        [told] = self.problems("  - {model: m}\n")
        self.assertIn("4:5: run[0]: there is no program 'llama-nowhere' on PATH", told)

    def test_programs_that_flood(self) -> None:
        """What says more than any help is not read on, and ended."""
        self.program = self.write("odd", "#!/bin/sh\nexec yes -- --model\n", 0o755)
        [told] = self.problems("  - {model: m, args: [--whatever]}\n")
        self.assertIn("'odd --help' says more than", told)

    def test_nothing_is_left(self) -> None:
        """What a program has forked ends with it, in time or not."""
        lines = f"sleep 20 & echo $! > {self.folder}/pid\n"
        self.helps = Helps(os.environ, deadline=2.0)
        for last in ("wait\n", "exec >&- 2>&-\n"):
            self.program = self.write("odd", f"#!/bin/sh\n{lines}{last}", 0o755)
            self.problems("  - {model: m, args: [--whatever]}\n")
            forked = int((self.folder / "pid").read_text())
            end = monotonic() + 60
            while _state_of(forked) not in ("", "Z") and monotonic() < end:
                sleep(0.01)
            self.assertIn(_state_of(forked), ("", "Z"))

    def test_programs_that_do_not_tell(self) -> None:
        """They are a warning that says why, and nothing is refused."""
        self.helps = Helps(os.environ, deadline=2.0)
        entry = "  - {model: m, args: [--whatever]}\n"
        for text, why in (
            ("#!/bin/sh\nexec sleep 20\n", "takes longer than 2 s"),
            ("#!/bin/sh\necho nothing\n", "lists no options"),
            ("no program at all", "cannot be run"),
        ):
            self.program = self.write("odd", text, 0o755)
            [told] = self.problems(entry)
            self.assertIn("run[0].args: not checked: 'odd --help'", told)
            self.assertIn(why, told)
        self.assertRaises(Unheard, self.helps.options, ["no-such-program-anywhere"])

    def test_the_real_launcher(self) -> None:
        """The options that our tests and examples give it are among those that it lists."""
        options = self.helps.options(LLAMA_SERVER)
        for name in ("--flash-attn", "-fa", "-t", "--jinja", "--no-warmup", "-n", "-ctk"):
            self.assertIn(name, options)
        self.assertNotIn("--no-such-flag", options)
        self.assertEqual(Path(LLAMA_SERVER[0]), Path(sys.executable))
