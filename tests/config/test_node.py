"""What `node_agent.yaml` says, and all that can be wrong with it."""

import os

from rolemesh.config.argv import OWN_ARGUMENTS, OWN_VARIABLES
from rolemesh.config.node import GpuChoice, Health, NodeSettings, Restart, Run, load_node
from rolemesh.config.problems import ConfigError
from tests.config.written import WrittenTests

HEAD = "gateway: http://gw:8000\n"


class NodeTestCase(WrittenTests):
    """A folder that holds two models."""

    def setUp(self) -> None:
        super().setUp()
        self.small = self.write("models/small.gguf")
        self.large = self.write("models/Large-30B-Q4.gguf")

    def runs(self, *entries: str) -> tuple[Run, ...]:
        listed = "".join(f"  - {{model: small, {entry}}}\n" for entry in entries)
        return self.node(f"{HEAD}models_dir: models\nrun:\n{listed}").run

    def run_problems(self, entry: str) -> list[str]:
        return self.node_problems(
            f"{HEAD}models_dir: models\nrun:\n  - {{model: small, {entry}}}\n"
        )


class SettingsTests(NodeTestCase):
    """The keys of the whole file."""

    def test_everything(self) -> None:
        """Every key ends in its field; paths are relative to the file that names them."""
        self.write("node.token", "rmn_1\n", mode=0o600)
        self.write("bin/llama-server")
        settings = self.node(
            """
            gateway: [http://gw1:8000/, http://gw2:8000/v1, http://gw1:8000]
            token: {file: node.token}
            models_dir: models
            name: box1
            advertise: 10.0.0.12
            labels: {site: basement, rack: 7}
            llama_server: [bin/llama-server, --verbose]
            ports: 9000-9009
            restart: {first: 2s, longest: 1m, reset_after: 5m}
            health: {interval: 3s, timeout: 1s}
            stop: 20s
            run:
              - model: large
                file: Large-30B-Q4.gguf
                gpu: [0, GPU-ab12, RTX 4090]
                slots: 4
                context: 64k
                roles: [coder, writer]
                args: [--flash-attn, on, -ngl, 99, --temp, 0.70]
                llama_server: llama-server-cuda
                env: {GGML_X: 1}
                id: main
              - model: small
            """
        )
        large = Run(
            id="main",
            model="large",
            file=self.large,
            gpu=GpuChoice((0, "GPU-ab12", "RTX 4090")),
            slots=4,
            context=65536,
            roles=("coder", "writer"),
            args=("--flash-attn", "on", "-ngl", "99", "--temp", "0.70"),
            llama_server=("llama-server-cuda",),
            env={"GGML_X": "1"},
        )
        program = (str(self.folder / "bin/llama-server"), "--verbose")
        small = Run(id="small", model="small", file=self.small, llama_server=program)
        expected = NodeSettings(
            gateways=("http://gw1:8000", "http://gw2:8000"),
            run=(large, small),
            name="box1",
            token="rmn_1",
            advertise="10.0.0.12",
            labels={"site": "basement", "rack": "7"},
            ports=range(9000, 9010),
            restart=Restart(2.0, 60.0, 300.0),
            health=Health(3.0, 1.0),
            stop=20.0,
        )
        self.assertEqual(settings, expected)
        self.assertEqual(settings.warnings, ())

    def test_defaults(self) -> None:
        """A gateway is enough; the name is then this host's, as a node may be called."""
        settings = self.node(HEAD)
        self.assertEqual(settings, NodeSettings(("http://gw:8000",), name=settings.name))
        self.assertRegex(settings.name, r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")

    def test_no_gateway(self) -> None:
        """A file that names no gateway is told so."""
        self.assertEqual(self.node_problems("name: box1\n"), ["1:1: this file: needs 'gateway'"])
        self.assertEqual(self.node_problems("gateway: []\n"), ["1:10: gateway: must not be empty"])

    def test_models_beside_the_file(self) -> None:
        """Without `models_dir` models are looked for beside the file."""
        self.write("tiny.gguf")
        (run,) = self.node(HEAD + "run: {model: tiny}\n").run
        self.assertEqual(run.file, self.folder / "tiny.gguf")

    def test_home(self) -> None:
        """`~/` is the home folder of the environment."""
        content = f"{HEAD}models_dir: ~/models\nrun: [{{model: small}}]\n"
        (run,) = self.node(content, {"HOME": str(self.folder)}).run
        self.assertEqual(run.file, self.small)
        self.assertIn("$HOME is not set", self.node_problems(content)[0])

    def test_no_models_dir(self) -> None:
        """A folder that is not there is one problem, not one for each model."""
        problems = self.node_problems(
            f"{HEAD}models_dir: gone\nrun: [{{model: a}}, {{model: b}}]\n"
        )
        self.assertEqual(problems, [f"2:13: models_dir: there is no folder {self.folder / 'gone'}"])

    def test_token_from_the_environment(self) -> None:
        """A token may come from a variable; one that is unset is told by its name."""
        content = HEAD + "token: {env: TOKEN}\n"
        self.assertEqual(self.node(content, {"TOKEN": " rmn_2 "}).token, "rmn_2")
        self.assertEqual(self.node_problems(content), ["2:14: token.env: $TOKEN is not set"])

    def test_tokens_that_are_none(self) -> None:
        """A token must be one word, in one place, and no error shows it."""
        for token, text in {
            "hunter2": "write {file: PATH} or {env: NAME}",
            "{env: hunter2-}": "must be the name of an environment variable",
            "{env: A, file: b}": "write either {file: PATH} or {env: NAME}",
            "{}": "write either",
            "{env: TWO}": "one word of plain ASCII",
            "{env: NONE}": "one word of plain ASCII",
        }.items():
            (problem,) = self.node_problems(
                f"{HEAD}token: {token}\n", {"TWO": "hunter2 x", "NONE": ""}
            )
            self.assertIn(text, problem)
            self.assertNotIn("hunter2", problem)

    def test_token_files(self) -> None:
        """A token file must be there, private, and hold text."""
        content = HEAD + "token: {file: t}\n"
        self.assertIn("no such file", self.node_problems(content)[0])
        path = self.write("t", "x", mode=0o604)
        self.assertIn(f"chmod 600 {path}", self.node_problems(content)[0])
        self.write("t", b"\xff\xfe", mode=0o600)
        self.assertIn("one word of plain ASCII", self.node_problems(content)[0])

    def test_token_stays_out_of_sight(self) -> None:
        """Settings that are logged do not show the token."""
        settings = self.node(HEAD + "token: {env: TOKEN}\n", {"TOKEN": "hunter2"})
        self.assertNotIn("hunter2", repr(settings))

    def test_ports(self) -> None:
        """Ports rise, exist, and are enough."""
        self.assertEqual(self.node(HEAD + "ports: 9000\n").ports, range(9000, 9001))
        for ports in ("9009-9000", "0-10", "1-70000", "a-b", "1-", "-1", "[1, 2]", "1-2-3"):
            (problem,) = self.node_problems(f"{HEAD}ports: {ports}\n")
            self.assertIn("2:8: ports: ", problem)
        run = "run: [{model: small, id: a}, {model: small, id: b}]\n"
        (problem,) = self.node_problems(f"{HEAD}models_dir: models\nports: 9000-9000\n{run}")
        self.assertIn("2 llama-servers need more", problem)

    def test_addresses(self) -> None:
        """What is advertised can be reached: no URL, no wildcard."""
        self.assertEqual(self.node(HEAD + "advertise: box1.lan\n").advertise, "box1.lan")
        for address in ("http://box1", "0.0.0.0", "'::'", "10.0.0.1:80", "'0'", "10.1", "'a b'"):
            (problem,) = self.node_problems(f"{HEAD}advertise: {address}\n")
            self.assertIn("2:12: advertise: ", problem)

    def test_pauses(self) -> None:
        """The longest pause is not shorter than the first."""
        (problem,) = self.node_problems(HEAD + "restart: {first: 10s, longest: 1s}\n")
        self.assertEqual(problem, "2:10: restart: longest (1s) is less than first (10s)")

    def test_programs(self) -> None:
        """A program with a slash is a path that must exist; a bare name is for PATH."""
        (problem,) = self.node_problems(HEAD + "llama_server: ./gone\n")
        self.assertIn(f"2:15: llama_server: there is no program {self.folder / 'gone'}", problem)
        (problem,) = self.node_problems(HEAD + "llama_server: []\n")
        self.assertIn("must not be empty", problem)

    def test_names(self) -> None:
        """A node's name is fit for URLs and headers."""
        for name in ("a b", "-a", "''", "7", "é"):
            (problem,) = self.node_problems(f"{HEAD}name: {name}\n")
            self.assertIn("2:7: name: ", problem)


class RunTests(NodeTestCase):
    """The entries of `run`."""

    def test_missing_model(self) -> None:
        """A model file that is not there is told with the file most like it."""
        self.assertEqual(
            self.node_problems(f"{HEAD}models_dir: models\nrun: [{{model: large-30b}}]\n"),
            [
                f"3:15: run[0].model: there is no file {self.folder}/models/large-30b.gguf"
                " - did you mean 'Large-30B-Q4.gguf'?"
            ],
        )
        self.assertIn(
            "4:26: run[0].file: there is no file", self.run_problems("file: smal.gguf")[0]
        )
        self.assertIn("- did you mean 'small.gguf'?", self.run_problems("file: smal.gguf")[0])

    def test_A37_what_is_missing_may_come_later(self) -> None:
        """A patient reader warns, once for each place, and reads the entries all the same."""
        path = self.write(
            "node_agent.yaml",
            f"{HEAD}models_dir: gone\nllama_server: ./no\nrun: [{{model: a}}, {{model: b}}]\n",
        )
        settings = load_node(path, {}, patient=True)
        self.assertEqual(
            [(run.file, run.absent) for run in settings.run],
            [(self.folder / "gone" / name, True) for name in ("a.gguf", "b.gguf")],
        )
        told = [warning.text.partition(": ")[0] for warning in settings.warnings]
        self.assertEqual(
            sorted(told), ["llama_server", "models_dir", "run[0].model", "run[1].model"]
        )
        self.assertRaises(ConfigError, load_node, path, {})

    def test_A37_patience_has_an_end_at_what_is_written_wrongly(self) -> None:
        """Time mends no typing mistake."""
        path = self.write("node_agent.yaml", f"{HEAD}run: [{{modle: a, file: gone.gguf}}]\n")
        self.assertRaises(ConfigError, load_node, path, {}, patient=True)

    def test_no_models_at_all(self) -> None:
        """In a folder without models there is nothing to suggest."""
        (problem,) = self.node_problems(HEAD + "run: {model: a}\n")
        self.assertIn(f"there is no .gguf file at all in {self.folder}", problem)

    def test_folders_are_no_models(self) -> None:
        """A folder is told to be one."""
        self.assertIn("is a folder, not a model's file", self.run_problems("file: .")[0])

    def test_pipes_are_no_models(self) -> None:
        """Who opened one would wait for ever."""
        os.mkfifo(self.folder / "models/pipe.gguf")
        self.assertIn("is no plain file", self.run_problems("file: pipe.gguf")[0])

    def test_gpus(self) -> None:
        """One GPU, several, all or none; numbers are indexes."""
        for written, choice in {
            "0": GpuChoice((0,)),
            "'1'": GpuChoice((1,)),
            "[0, 1]": GpuChoice((0, 1)),
            "GPU-8f": GpuChoice(("GPU-8f",)),
            "all": GpuChoice(all=True),
            "none": GpuChoice(none=True),
            "[]": GpuChoice(),
        }.items():
            (run,) = self.runs(f"gpu: {written}")
            self.assertEqual(run.gpu, choice, written)

    def test_no_gpus(self) -> None:
        """What is no GPU is told, above all the spellings that look like one."""
        for written in ("'0,1'", "[0, all]", "[0, 0]", "-1", "true", "1.5", "~", "{}", "''"):
            (problem,) = self.run_problems(f"gpu: {written}")
            self.assertIn("run[0].gpu", problem)

    def test_ids(self) -> None:
        """An entry is called by its GPU when it alone is on it, else by its model."""

        def ids(*entries: str) -> list[str]:
            return [run.id for run in self.runs(*entries)]

        self.assertEqual(ids("gpu: 0", "gpu: 1"), ["gpu0", "gpu1"])
        self.assertEqual(ids("gpu: 0", "gpu: 0"), ["small", "small-2"])
        self.assertEqual(ids("gpu: [0, 1]", "gpu: all", "gpu: 2"), ["small", "small-2", "gpu2"])
        self.assertEqual(ids("gpu: 0", "gpu: 1, id: gpu0"), ["small", "gpu0"])
        self.assertEqual(ids("gpu: 0", "gpu: 0, id: x"), ["small", "x"])
        self.assertEqual(ids("slots: 2", "id: small"), ["small-2", "small"])

    def test_ids_of_odd_models(self) -> None:
        """A model's name becomes an id that fits into a header."""
        (run,) = self.node(
            f"{HEAD}run: {{model: 'a/b:{'c' * 100}', file: models/small.gguf}}\n"
        ).run
        self.assertEqual(run.id, f"a-b-{'c' * 60}")

    def test_same_id_twice(self) -> None:
        """Two entries with one id are a problem at the second."""
        self.assertEqual(
            self.node_problems(
                HEAD + "models_dir: models\nrun:\n"
                "  - {model: small, id: x}\n"
                "  - {model: small, id: x}\n"
            ),
            ["5:24: run[1].id: 'x' is already the id of run[0]"],
        )

    def test_same_gpu_twice(self) -> None:
        """Two entries may share a GPU."""
        first, second = self.runs("gpu: 0", "gpu: 0")
        self.assertEqual(first.gpu, second.gpu)

    def test_own_arguments(self) -> None:
        """Arguments that are RoleMesh's own are refused with what to write instead."""
        for argument, instead in OWN_ARGUMENTS.items():
            other = argument[:2] + argument[2:].replace("-", "_")  # as llama-server takes them too
            for written in (argument, f"{argument}=1", other):
                self.assertEqual(
                    self.run_problems(f"args: [--jinja, {written}]"),
                    [f"4:36: run[0].args[1]: '{written}' is RoleMesh's own argument: {instead}"],
                )

    def test_arguments_in_one(self) -> None:
        """An argument with its value in one string, which no server takes, is refused."""
        (problem,) = self.run_problems("args: '--flash-attn on'")
        self.assertIn("is one argument: write [--flash-attn, on]", problem)

    def test_own_variables(self) -> None:
        """Variables that are RoleMesh's own are refused with what to write instead."""
        for name, instead in OWN_VARIABLES.items():
            self.assertEqual(
                self.run_problems(f"env: {{{name}: 1}}"),
                [f"4:26: '{name}' is RoleMesh's own variable: {instead}"],
            )
        self.assertIn("cannot be the name", self.run_problems("env: {A-B: 1}")[0])

    def test_all_problems_at_once(self) -> None:
        """Each wrong entry is told, in the order of the file."""
        self.assertEqual(
            self.node_problems(
                """\
                gateway: gw:8000
                models_dir: models
                run:
                  - {model: small, slots: 0, context: much}
                  - {modle: small}
                  - {model: small, keep: 10m, roles: [A]}
                """
            ),
            [
                "1:10: gateway: 'gw:8000' is not a URL: write http://HOST:PORT",
                "4:27: run[0].slots: expected a whole number from 1 to 4096, found '0'",
                "4:39: run[0].context: 'much' is not a size (examples: 8192, 64k, 1GiB)",
                "5:5: run[1]: needs 'model'",
                "5:6: unknown key 'modle' in run[1] - did you mean 'model'?",
                "6:20: unknown key 'keep' in run[2] (there are: model, file, gpu, slots, context,"
                " roles, args, llama_server, env, id)",
                "6:39: run[2].roles[0]: 'A' is not a role's name: use a-z, 0-9, dot, hyphen and"
                " underscore, at most 64",
            ],
        )

    def test_too_many(self) -> None:
        """A node has no more servers than its report can name."""
        (problem,) = self.node_problems(f"{HEAD}run: [{'{model: a}, ' * 17}]\n")
        self.assertIn("has 17 entries, 16 is the most", problem)
