"""The node agent's command line and its reload."""

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet import reactor
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.config.node import NodeSettings, OnExit, Run
from rolemesh.config.problems import ConfigError
from rolemesh.lag import LagWatch
from rolemesh.node import tap
from rolemesh.node.agent import Agent

FILE = """\
gateway: http://127.0.0.1:8000
name: box2
run:
  - {model: tiny, file: MODEL}
"""


class FakeAgent:
    """Notes what it is told to run."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []

    def run(self, runs: tuple[Run, ...]) -> None:
        self.told.append(tuple(run.model for run in runs))


class FileTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.model = folder.absolute() / "m.gguf"
        self.model.touch(0o600)
        self.file = folder / "node_agent.yaml"
        self.write(FILE)
        self.options = tap.Options()
        self.options.parseOptions(["--config", str(self.file), "--state", str(folder / "state")])

    def write(self, text: str) -> None:
        self.file.write_text(text.replace("MODEL", str(self.model)))
        self.file.chmod(0o600)


class OptionsTests(FileTestCase):
    def test_the_file_becomes_settings(self) -> None:
        """What `--config` names is read by the node's own reader."""
        self.assertIsInstance(self.options.settings, NodeSettings)
        self.assertEqual(self.options.settings.run[0].file, self.model)

    def test_the_service_holds_the_agent_and_starts_nothing(self) -> None:
        """`makeService` opens nothing and runs nothing; that waits for the start."""
        before = len(reactor.getDelayedCalls()), len(reactor.getReaders())
        service = tap.makeService(self.options)
        self.assertIsInstance(service, MultiService)
        self.assertTrue(any(isinstance(each, Agent) for each in service))
        self.assertEqual((len(reactor.getDelayedCalls()), len(reactor.getReaders())), before)

    def test_A29_A33_A34_what_watches_over_an_agent(self) -> None:
        """A reactor that is held up is told of, orphans are reaped, and its clock is nobody's to
        set."""
        reaper, kept = Service(), list[object]()
        self.patch(tap, "Reaper", lambda _: reaper)
        self.patch(tap, "keep_steady", kept.append)
        service = tap.makeService(self.options)
        self.assertTrue(any(isinstance(each, LagWatch) for each in service))
        self.assertEqual(kept, [reactor])
        agent = next(each for each in service if isinstance(each, Agent))
        self.assertIn(reaper, agent._hearing)

    def test_A12_the_grace_is_the_files_word(self) -> None:
        """Ten seconds unless it says otherwise."""
        machine: Any = None
        for more, grace in (("", 10.0), ("stop: 3s\n", 3.0)):
            self.write(FILE + more)
            settings = self.options.load(self.file)
            self.assertEqual(tap._means(reactor, settings, machine).grace, grace)

    def test_A35_two_agents_on_one_folder(self) -> None:
        """The second one ends with 75, in a line that names the folder and the way out."""
        second = tap.Options()
        words = ["--config", str(self.file), "--state", str(self.options.state_dir)]
        with redirect_stderr(io.StringIO()) as errors, self.assertRaises(SystemExit) as ended:
            second.parseOptions(words)
        self.assertEqual(ended.exception.code, 75)
        self.assertIn(f"{self.options.state_dir} is in use by process", errors.getvalue())
        self.assertIn("--state", errors.getvalue())

    def test_A36_a_gpu_that_is_named_twice(self) -> None:
        """By one entry it is refused, with its line; two entries may share it."""
        entries = (
            "  - {model: one, file: MODEL, gpu: GPUS}\n  - {model: two, file: MODEL, gpu: 0}\n"
        )
        head = FILE.partition("  - ")[0]
        self.write(head + entries.replace("GPUS", "0"))
        shared = self.options.load(self.file)
        self.assertEqual([run.gpu.names for run in shared.run], [(0,), (0,)])
        self.write(head + entries.replace("GPUS", "[0, 0]"))
        with self.assertRaises(ConfigError) as refused:
            self.options.load(self.file)
        self.assertIn("node_agent.yaml:4:", str(refused.exception))
        self.assertIn("names a GPU twice", str(refused.exception))

    def test_A1_A37_what_is_not_there_is_a_warning(self) -> None:
        """One missing file or program does not keep the other entries down."""
        self.write(FILE + "  - {model: other, file: gone.gguf, llama_server: /gone/llama-server}\n")
        settings = self.options.load(self.file)
        self.assertEqual([run.absent for run in settings.run], [False, True])
        file, program = sorted(each.text for each in settings.warnings)
        self.assertIn("run[1].file: there is no file", file)
        self.assertIn("there is no program /gone/llama-server", program)

    def test_what_becomes_of_servers_is_the_files_word(self) -> None:
        """They end with the agent unless the file says otherwise."""
        self.assertIs(self.options.settings.on_exit, OnExit.STOP)
        self.write(FILE + "on_exit: keep\n")
        self.assertIs(self.options.load(self.file).on_exit, OnExit.KEEP)
        self.write(FILE + "on_exit: adopt\n")
        with self.assertRaises(ConfigError):
            self.options.load(self.file)


class ReloadTests(FileTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.agent = FakeAgent()
        self.events = self.enterContext(capturedLogs())

    def reload(self) -> None:
        tap._reload(self.options, self.agent)  # type: ignore[arg-type]

    def warned(self) -> list[str]:
        loud = (event for event in self.events if event["log_level"] > LogLevel.info)
        return [str(event["log_format"]) for event in loud]

    def test_A32_new_entries_are_run(self) -> None:
        """The file as it is now decides what runs."""
        self.write(FILE + "  - {model: other, file: MODEL}\n")
        self.reload()
        self.assertEqual(self.agent.told, [("tiny", "other")])
        self.assertEqual(self.warned(), [])

    def test_A32_a_file_with_problems_changes_nothing(self) -> None:
        """What ran goes on, and the problems are told."""
        self.write(FILE + "frob: 1\n")
        self.reload()
        self.assertEqual(self.agent.told, [])
        self.assertEqual(self.warned(), ["not reloaded: {problem}"])

    def test_A32_what_runs_is_not_given_up_for_a_file_that_is_not_there(self) -> None:
        """An entry that has changed so keeps its server; the reload is refused, and says why."""
        self.write(FILE.replace("MODEL", "gone.gguf").replace("{model", "{id: tiny, model"))
        self.reload()
        self.assertEqual(self.agent.told, [])
        self.assertEqual(
            self.warned(), ["{problem}", "not reloaded: {ids} would stop for what is not there"]
        )

    def test_A32_A37_a_new_entry_may_wait_for_its_file(self) -> None:
        """It is taken in with a warning, and is in no other entry's way."""
        self.write(FILE + "  - {model: other, file: gone.gguf}\n")
        for _ in range(2):
            self.reload()
        self.assertEqual(self.agent.told, [("tiny", "other")] * 2)
        self.assertEqual(self.warned(), ["{problem}"] * 2)

    def test_what_is_not_reloaded_is_said(self) -> None:
        """Another gateway needs a restart; nobody has to find that out alone."""
        self.write(FILE.replace("8000", "8001"))
        self.reload()
        self.assertEqual(self.agent.told, [("tiny",)])
        self.assertEqual(len(self.warned()), 1)
