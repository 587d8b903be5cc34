"""`rolemesh init`, on machines made of folders."""

import io
import os
import socket
import struct
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from rolemesh.cli import init, machine, model_files
from rolemesh.cli.first_files import value
from rolemesh.cli.main import parser
from rolemesh.cli.survey import Looked, free_ports, survey
from rolemesh.config.gateway import load_gateway
from rolemesh.config.node import load_node
from tests.config.written import WrittenTests
from tests.doubles.weights import gguf as weights

PROGRAM = """\
#!/bin/sh
for each in model alias parallel metrics slots; do echo "--$each N     what it does"; done
"""


def gguf(**numbers: int) -> bytes:
    """The head of a model of kind `llama`, with these of its numbers."""
    pairs = [(b"general.architecture", 8, struct.pack("<Q", 5) + b"llama")]
    for name, number in numbers.items():
        key = f"llama.{name.replace('__', '.')}".encode()
        pairs.append((key, 4, struct.pack("<I", number)))
    body = b"".join(struct.pack("<Q", len(k)) + k + struct.pack("<I", t) + v for k, t, v in pairs)
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + body


TINY = gguf(context_length=4096, block_count=2, embedding_length=64, attention__head_count=4)


class InitCase(WrittenTests):
    """A machine: a home, a PATH with one program, and no GPUs."""

    def setUp(self) -> None:
        super().setUp()
        self.write("bin/llama-server", PROGRAM, 0o755)
        self.home = self.folder / "home"
        self.home.mkdir()
        environ = {"HOME": str(self.home), "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin"}
        self.patch(os, "environ", environ)
        self.patch(model_files, "_OF_ALL", ())
        self.patch(machine, "_OF_ALL", ())
        self.patch(machine, "find_spec", lambda _: None)
        here = Path.cwd()
        os.chdir(self.home)
        self.addCleanup(os.chdir, here)

    def model(self, name: str, content: bytes = TINY) -> Path:
        return self.write(f"home/{name}", content)

    def command(self, *words: str) -> tuple[int, str]:
        arguments = parser().parse_args(words)
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            return int(arguments.run(arguments)), said.getvalue()

    def init(self, *words: str) -> tuple[int, str]:
        return self.command("init", "--dir", str(self.folder / "c"), *words)


class InitTests(InitCase):
    """What is written, and what is said of it."""

    def test_files_that_run(self) -> None:
        """Both files pass the check, name the model, the program and each other."""
        file = self.model("models/Qwen3-Coder-30B-A3B-Q4_K_M.gguf")
        code, said = self.init()
        self.assertEqual(code, 0, said)
        node = load_node(self.folder / "c/node_agent.yaml", os.environ)
        gateway = load_gateway(self.folder / "c/models.yaml", os.environ)
        [run] = node.run
        self.assertEqual((run.model, run.file), ("qwen3-coder-30b", file))
        self.assertEqual((run.slots, run.context), (2, 4096))
        self.assertEqual(run.llama_server, (str(self.folder / "bin/llama-server"),))
        self.assertEqual((list(gateway.roles), run.roles), ([run.model], (run.model,)))
        self.assertEqual(node.gateways, ("http://127.0.0.1:8000",))
        self.assertEqual((node.warnings, gateway.warnings), ((), ()))
        self.assertIn("1 role: qwen3-coder-30b", said)
        self.assertIn("Next: rolemesh up", said)

    def test_commented_entries_can_be_taken_in(self) -> None:
        """A model that does not run stands there as a line that only wants its # taken away."""
        self.model("models/large.gguf", TINY + bytes(1000))
        self.model("models/small.gguf")
        self.init()
        path = self.folder / "c/node_agent.yaml"
        text = path.read_text()
        self.assertIn("  # - {model: small, file: ", text)
        path.write_text(text.replace("  # - {model: small", "  - {model: small"))
        self.assertEqual([run.model for run in load_node(path, {}).run], ["large", "small"])

    def test_nothing_is_overwritten(self) -> None:
        """A file that is there stays, and the other is written; --force replaces both."""
        self.model("models/m.gguf")
        mine = self.write("c/models.yaml", "roles: {a: http://b}\n")
        self.assertEqual(self.init()[0], 0)
        self.assertEqual(mine.read_text(), "roles: {a: http://b}\n")
        code, said = self.init()
        self.assertEqual(code, 1)
        self.assertIn("stay as they are (--force replaces them)", said)
        self.assertEqual(self.init("--force")[0], 0)
        self.assertIn("m: m", mine.read_text())

    def test_without_models(self) -> None:
        """Nothing is written; what to do is said."""
        code, said = self.init()
        self.assertEqual(code, 1)
        self.assertIn("there is no model\n  put a .gguf file into ~/models", said)
        self.assertFalse((self.folder / "c").exists())

    def test_a_folder_that_is_not_there(self) -> None:
        """One that was named is missed, whatever is elsewhere; so is a file in its place."""
        file = self.model("models/m.gguf")
        for wrong in ("/nowhere", str(file)):
            code, said = self.init("--models", wrong)
            self.assertEqual(code, 1)
            self.assertIn(f"{wrong} is no folder; --models wants", said)

    def test_without_a_llama_server(self) -> None:
        """Neither; a wrong path that was given is told as what it is."""
        self.model("models/m.gguf")
        (self.folder / "bin/llama-server").unlink()
        code, said = self.init()
        self.assertEqual(code, 1)
        self.assertIn("there is no llama-server on PATH", said)
        self.assertIn("/nowhere cannot be run", self.init("--llama-server", "/nowhere")[1])

    def test_a_llama_server_that_will_not_do(self) -> None:
        """A missing library, or a build of long ago, is told before a model waits for it."""
        self.model("models/m.gguf")
        self.assertNotIn("it may not run", self.init("--force")[1])
        self.write(
            "bin/llama-server", "#!/bin/sh\necho 'no libcudart.so.12' >&2; exit 127\n", 0o755
        )
        said = self.init("--force")[1]
        self.assertIn("it may not run: 'llama-server --help' lists no options: no libcud", said)
        self.write("bin/llama-server", "#!/bin/sh\necho '--model N'\n", 0o755)
        self.assertIn("it is too old: it has no --alias and no", self.init("--force")[1])

    def test_the_program_of_the_wheel(self) -> None:
        """It does where no other is installed."""
        self.model("models/m.gguf")
        (self.folder / "bin/llama-server").unlink()
        self.patch(machine, "find_spec", lambda _: True)
        self.assertEqual(self.init()[0], 0)
        [run] = load_node(self.folder / "c/node_agent.yaml", {}).run
        self.assertEqual(run.llama_server, (sys.executable, *machine.OUR_LAUNCHER))

    def test_odd_names(self) -> None:
        """Whatever a file is called, the configuration says the same."""
        for name in (
            "a ${b}: {c} # d.gguf",
            "true.gguf",
            "1.gguf",
            "-x.gguf",
            "Ünï 'q' \"r\".gguf",
        ):
            file = self.model(f"models/{name}")
            code, said = self.init("--force")
            self.assertEqual(code, 0, said)
            [run] = load_node(self.folder / "c/node_agent.yaml", {}).run
            self.assertEqual(run.file, file)
            file.unlink()
        self.assertEqual([value("on"), value("a/b-c.d")], ["on", "a/b-c.d"])

    def test_ports_that_are_taken(self) -> None:
        """A range of whose first ports somebody uses one is passed over."""
        with socket.socket() as other:
            port = next(port for port in range(21000, 50000) if bound(other, port))
            other.listen()
            first = int(free_ports(port - 3).partition("-")[0])
        self.assertGreater(first, port)
        self.assertEqual((first - port + 3) % 100, 0)


def bound(other: socket.socket, port: int) -> bool:
    try:
        other.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


class SearchTests(InitCase):
    """Which files are models."""

    def found(self, *folders: str) -> model_files.Shelf:
        return model_files.search([self.home / each for each in folders], lambda: 0.0)

    def names(self, *folders: str) -> list[str]:
        return [model.found.name for model in self.found(*folders).models]

    def test_what_is_found(self) -> None:
        """Models below a folder, by a link as well, and each once; not what only looks like one."""
        real = self.model("blobs/3f2a")
        self.write("home/hub/models--x/snapshots/1/.keep")
        (self.home / "hub/models--x/snapshots/1/x-Q4_0.gguf").symlink_to(real)
        (self.home / "hub/models--x/snapshots/1/again.gguf").symlink_to(real)
        self.model("hub/y/mmproj-y-f16.gguf")
        self.model("hub/y/ggml-vocab-y.gguf")
        self.model("hub/y/y.gguf.part")
        self.assertEqual(self.names("hub", "hub", "nowhere"), ["again"])

    def test_circles_and_depths(self) -> None:
        """A link to a folder above, one into nowhere, and a deep tree end the walk nowhere."""
        self.model("a/m.gguf")
        (self.home / "a/up").symlink_to(self.home)
        (self.home / "a/gone").symlink_to("/no/such/place")
        (self.home / "a/self.gguf").symlink_to(self.home / "a/self.gguf")
        self.model("a/1/2/3/4/5/6/7/8/9/10/deep.gguf")
        self.assertEqual(self.names("a"), ["m"])

    def test_pipes_and_folders(self) -> None:
        """What is no plain file is passed over: opening a pipe would wait for ever."""
        self.model("a/folder.gguf/m.gguf")
        os.mkfifo(self.home / "a/pipe.gguf")
        (self.home / "a/null.gguf").symlink_to("/dev/null")
        shelf = self.found("a")
        self.assertEqual(([m.found.name for m in shelf.models], shelf.skipped), (["m"], ()))

    def test_split_models(self) -> None:
        """Their files are one model of their size together; a part that is missing is told."""
        self.model("s/m-00001-of-00002.gguf")
        self.model("s/m-00002-of-00002.gguf", bytes(500))
        self.model("s/n-00001-of-00002.gguf")
        shelf = self.found("s")
        self.assertEqual([m.found.size for m in shelf.models], [len(TINY) + 500])
        [(path, why)] = shelf.skipped
        self.assertEqual(path.name, "n-00001-of-00002.gguf")
        self.assertEqual(why, "is not whole: n-00002-of-00002.gguf is missing")

    def test_downloads_under_way(self) -> None:
        """What is cut behind its head is left out, with how much of it is there."""
        whole = weights()
        self.model("s/done.gguf", whole)
        cut = self.model("s/going-on.gguf", whole[:-1000])
        shelf = self.found("s")
        self.assertEqual([m.path.name for m in shelf.models], ["done.gguf"])
        told = f"is not whole: has {len(whole) - 1000} of {len(whole)} bytes"
        self.assertEqual(shelf.skipped, ((cut, told),))

    def test_names_that_are_no_text(self) -> None:
        """What no configuration can say is left out, with the reason."""
        self.model("s/a\nb.gguf")
        (self.home / os.fsdecode(b"s/\xff.gguf")).write_bytes(TINY)
        shelf = self.found("s")
        self.assertEqual(shelf.models, ())
        self.assertEqual(
            {why for _, why in shelf.skipped}, {"its path is not plain text, so rename it"}
        )

    def test_what_is_no_gguf(self) -> None:
        """It is left out, with the reason."""
        self.model("s/text.gguf", b"hello")
        [(_, why)] = self.found("s").skipped
        self.assertIn("does not begin with 'GGUF'", why)

    def test_it_ends(self) -> None:
        """A walk that takes too long, or sees too much, ends with what it has, and says so."""
        self.model("s/a.gguf")
        times = iter([0.0, 1.0, 100.0])
        shelf = model_files.search([self.home], lambda: next(times, 200.0))
        self.assertIn("longer than", shelf.ended_early)
        self.patch(model_files, "MOST_ENTRIES", 0)
        self.assertIn("files and folders", self.found("s").ended_early)

    def test_folders_of_the_environment(self) -> None:
        """Where tools are told to keep models is looked into."""
        folders = model_files.usual_folders({"LLAMA_CACHE": "/x"}, Path("/here"), Path("/home/me"))
        self.assertEqual(folders[:2], [Path("/here/models"), Path("/x")])
        self.assertIn(Path("/home/me/.cache/huggingface/hub"), folders)


GPU = '{"uuid": "GPU-1", "index": 0, "name": "RTX", "memory_total": 25769803776, "memory_used": 0}'


class MachineTests(InitCase):
    """GPUs, as a helper of the test tells them."""

    def helper(self, text: str) -> Path:
        return self.write("helper.py", text)

    def test_gpus(self) -> None:
        """The helper's first line counts; it need not end by itself."""
        helper = self.helper(
            f"import time\nprint('{{\"gpus\": [{GPU}]}}', flush=True)\ntime.sleep(60)"
        )
        gpus, problem = machine.read_gpus(os.environ, 20, helper)
        self.assertEqual(([gpu.name for gpu in gpus], problem), (["RTX"], ""))
        [(index, place)] = machine.places(gpus)
        self.assertEqual((index, place.free), (0, 24 * 1024**3))

    def test_a_driver_that_hangs(self) -> None:
        """It costs the deadline and the GPUs."""
        gpus, problem = machine.read_gpus(
            os.environ, 0.3, self.helper("import time\ntime.sleep(60)\n")
        )
        self.assertEqual((gpus, problem), ((), "NVML did not answer within 0.3 s"))

    def test_a_driver_that_crashes(self) -> None:
        """It is told, and is no error."""
        for text in ("import os\nos.abort()\n", "print('x', flush=True)\n"):
            gpus, problem = machine.read_gpus(os.environ, 20, self.helper(text))
            self.assertEqual(gpus, ())
            self.assertIn("ended without an answer", problem)

    def test_files_for_gpus(self) -> None:
        """An entry for each GPU, by its index, with its name beside it."""
        self.model("models/m.gguf")
        gpus = f"[{GPU}, {GPU.replace('GPU-1', 'GPU-2').replace(': 0, ', ': 1, ', 1)}]"
        helper = self.helper(f"print('{{\"gpus\": {gpus}}}', flush=True)")
        self.patch(machine.read_gpus, "__defaults__", (20, helper))
        said: list[str] = []
        found = survey(Looked(os.environ, self.home, self.home), said.append)
        self.assertEqual([choice.gpu for choice in found.plan.chosen], [0, 1])
        self.assertIn("  GPU 1          RTX, 24.0 of 24.0 GB free", said)
        self.assertEqual(self.init()[0], 0)
        runs = load_node(self.folder / "c/node_agent.yaml", {}).run
        self.assertEqual([run.id for run in runs], ["gpu0", "gpu1"])
        self.assertEqual([run.slots for run in runs], [4, 4])


class FolderTests(InitCase):
    def test_where_files_go(self) -> None:
        """To ./configs where there is such a folder, else to where any folder finds them."""
        self.assertEqual(init.folder_of(None), self.home / ".config/rolemesh")
        (self.home / "configs").mkdir()
        self.assertEqual(init.folder_of(None), Path("configs"))
