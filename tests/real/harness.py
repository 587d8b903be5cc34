"""Real llama.cpp servers, gateways and node agents as processes on free ports, for tests.

Everything that a `Workshop` starts is ended by its pid when the workshop closes, and so is all that
those processes started; whatever is still there then fails the test.
"""

import importlib.util
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from attrs import field, frozen
from twisted.trial.unittest import SkipTest, SynchronousTestCase

T = TypeVar("T")

DEADLINE = 90.0  # seconds; for what takes a few on an idle machine
WIDTH = 10  # ports that belong together
# Below those that the kernel gives to listeners and connections that want any; in no order, so that
# two runs on one machine do not meet.
_PORTS = cycle(random.sample(range(20_000, 32_000, WIDTH), 1200))
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n")
LLAMA_SERVER = (sys.executable, "-m", "rolemesh.demo.llama_server")
BALANCER = Path(__file__).parents[2] / "configs" / "haproxy.example.cfg"


def need(present: bool, what: str) -> None:
    """Skip the test when a real part is missing; fail it when ROLEMESH_REQUIRE_REAL=1."""
    if present:
        return
    if os.environ.get("ROLEMESH_REQUIRE_REAL") == "1":
        raise AssertionError(f"{what} is missing, and ROLEMESH_REQUIRE_REAL=1 forbids to skip")
    raise SkipTest(f"{what} is missing")


def need_llama() -> None:
    """Skip or fail when no real llama.cpp server can be run here."""
    found = [importlib.util.find_spec(name) is not None for name in ("xllamacpp", "gguf", "numpy")]
    need(all(found), "the extra rolemesh[demo]")


def need_haproxy() -> None:
    """Skip or fail when there is no HAProxy."""
    need(shutil.which("haproxy") is not None, "haproxy")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses, nor the nine after it, now or until it is listened on:
    no other caller is given any of these, and neither is a connection."""
    return next(port for port in _PORTS if all(map(_is_free, range(port, port + WIDTH))))


def _is_free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


def eventually(what: str, ask: Callable[[], T], seconds: float = DEADLINE) -> T:
    """Ask until the answer is true and return it; fail after `seconds`, naming `what`."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)
    return answer


@frozen
class Answer:
    """An HTTP answer, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    def json(self) -> Any:
        return json.loads(self.body)


def ask(url: str, body: Any = None, method: str | None = None, **headers: str) -> Answer:
    """Send a request and read the whole answer, whatever its status; raises OSError without one."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    if data is not None:
        request.add_header("content-type", "application/json")
    try:
        response = urllib.request.urlopen(request, timeout=DEADLINE)
    except urllib.error.HTTPError as refusal:
        response = refusal
    with response:
        return Answer(response.status, _lower(response.headers.items()), response.read())


def _lower(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers}


def answers(url: str, status: int = 200) -> bool:
    """Whether a URL answers with that status now."""
    with suppress(OSError):
        return ask(url).status == status
    return False


def lives(process: Any) -> bool:
    """Whether one of psutil's processes runs; one that waits to be reaped does not."""
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Program:
    """One process with its output in a file."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, **environment: str) -> None:
        self.name, self._log = name, log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def text(self) -> str:
        """All it has written so far."""
        return self._log.read_text(errors="replace")

    def tail(self) -> str:
        return "\n".join([f"--- {self.name}, pid {self.pid}", *self.text().splitlines()[-25:]])

    def events(self) -> list[dict[str, Any]]:
        """Its JSON log lines."""
        found = []
        for line in self.text().splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
        return [event for event in found if isinstance(event, dict)]

    def signal(self, number: int) -> None:
        if self.running:
            self._process.send_signal(number)

    def wait(self, seconds: float = DEADLINE) -> int:
        """Its exit code once it has ended by itself or by a signal sent before."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {seconds:g} s\n{self.tail()}") from None

    def stop(self, seconds: float = DEADLINE) -> int:
        """SIGTERM, and its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def descendants(self) -> list[Any]:
        """psutil's view of the processes that it and its children started."""
        import psutil

        try:
            return list(psutil.Process(self.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return []

    def until(self, what: str, ask: Callable[[], T], seconds: float = DEADLINE) -> T:
        """As `eventually`, but fails at once, with its last lines, when it ends."""
        return eventually(what, lambda: ask() or self._must_run(what), seconds)

    def _must_run(self, what: str) -> Any:
        if not self.running:
            raise AssertionError(f"ended with {self.wait()} before {what}\n{self.tail()}")


@frozen
class Server:
    """A program that answers at a URL."""

    program: Program
    url: str


class Workshop:
    """A folder and the programs that run in it, until `close`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rolemesh-test-"))
        self.programs: list[Program] = []

    def file(self, name: str, text: str) -> Path:
        """Write a private file into the folder."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    def model(self, **options: Any) -> Path:
        """A generated model, kept between runs for as long as its options are the same."""
        from rolemesh.demo.model import cached_tiny_model

        return cached_tiny_model(Path(tempfile.gettempdir()) / "rolemesh-test-models", **options)

    def slow_model(self) -> Path:
        """A model that makes about a hundred tokens a second: slow enough to interrupt."""
        return self.model(layers=24, embd=512, heads=8, ctx=131072)

    def start(self, name: str, argv: Sequence[str], **environment: str) -> Program:
        """Start a program with its output in a file of its own."""
        log = self.folder / f"{len(self.programs)}-{name}.log"
        program = Program(name, argv, log, **environment)
        self.programs.append(program)
        return program

    def llama_server(self, model: Path, *extra: str, port: int | None = None) -> Server:
        """A real llama.cpp server that is ready."""
        port = port or free_port()
        options = ["--model", str(model), "--port", str(port), "-c", "8192", "--parallel", "2"]
        argv = [*LLAMA_SERVER, *options, "--alias", "tiny", "-t", "1", "--no-warmup", *extra]
        server = Server(self.start("llama-server", argv), f"http://127.0.0.1:{port}")
        server.program.until("llama-server is ready", lambda: answers(f"{server.url}/health"))
        return server

    def gateway(
        self, config: str, port: int | None = None, *also: str, **environment: str
    ) -> Server:
        """A gateway that answers, also at other endpoints, with its state in the workshop's
        folder."""
        port = port or free_port()
        path = self.file(f"models-{port}.yaml", config)
        listen = [f"--listen={each}" for each in (f"tcp:{port}:interface=127.0.0.1", *also)]
        state = str(self.folder / f"gateway-{port}")
        argv = [*TWISTD, "rolemesh-gateway", "--config", str(path)]
        program = self.start("gateway", [*argv, *listen, "--state", state], **environment)
        server = Server(program, f"http://127.0.0.1:{port}")
        program.until("the gateway answers", lambda: answers(f"{server.url}/health"))
        return server

    def balancer(self, gateways: Sequence[int]) -> Server:
        """HAProxy with the configuration of our example before gateways of this machine, by the
        ports at which they take its protocol."""
        port = free_port()
        text = BALANCER.read_text().replace("bind :8000", f"bind 127.0.0.1:{port}")
        for number, gateway in enumerate(gateways):
            text = text.replace(f"10.0.0.1{number}:8001", f"127.0.0.1:{gateway}")
        text = re.sub(r"(?m)^    server .* 10\.0\.0\..*\n", "", text)
        if os.geteuid() != 0:
            text = re.sub(r"(?m)^    (user|group) .*\n", "", text)
        program = self.start("haproxy", ["haproxy", "-db", "-f", str(self.file("ha.cfg", text))])
        program.until("HAProxy answers", lambda: answers(f"http://127.0.0.1:{port}/health"))
        return Server(program, f"http://127.0.0.1:{port}")

    def node(self, config: str, **environment: str) -> Program:
        """A node agent, with its state in the workshop's folder."""
        number = len(self.programs)
        path = self.file(f"node-{number}.yaml", config)
        argv = [*TWISTD, "rolemesh-node", "--config", str(path)]
        return self.start(
            "node", [*argv, "--state", str(self.folder / f"n{number}")], **environment
        )

    def mesh_node(
        self,
        gateway: Server | Sequence[Server],
        model: Path,
        name: str = "box",
        token: str | None = None,
        **more: Any,
    ) -> Program:
        """A node agent that runs `model` as `tiny`, with two slots of 4096 tokens."""
        gateways = [gateway] if isinstance(gateway, Server) else gateway
        first = free_port()
        entry = {"id": "cpu", "model": "tiny", "file": str(model), "slots": 2, "context": 4096}
        settings: dict[str, Any] = {
            "gateway": [each.url for each in gateways],
            "name": name,
            "llama_server": list(LLAMA_SERVER),
            "ports": f"{first}-{first + 5}",
            "run": [{**entry, "args": ["-t", "1", "--no-warmup", "--jinja"], **more}],
        }
        if token is not None:
            settings["token"] = {"file": str(self.file(f"{name}.token", token))}
        return self.node(json.dumps(settings))

    def key(self) -> str:
        """A new client key in the workshop's `keys.yaml`."""
        return self._minted("keys.yaml", "--name", "test")

    def token(self, node: str) -> str:
        """A new token of a node in the workshop's `nodes.yaml`."""
        return self._minted("nodes.yaml", "--node", node)

    def _minted(self, file: str, *options: str) -> str:
        argv = [sys.executable, "-m", "rolemesh.cli.main", "keys", "add", *options]
        argv += ["--file", str(self.folder / file)]
        made = subprocess.run(argv, capture_output=True, text=True, check=True)
        return made.stdout.strip()

    def close(self) -> None:
        """End every process; fails when one had to be killed or would not go."""
        descendants = [each for program in self.programs for each in program.descendants()]
        try:
            stubborn = [program for program in reversed(self.programs) if not _ended(program)]
            left = [each for each in descendants if not _gone(each)]
            told = [program.tail() for program in stubborn] + [str(each) for each in left]
            if told:
                raise AssertionError("did not end by themselves:\n" + "\n".join(told))
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


def _ended(program: Program) -> bool:
    try:
        program.stop()
    except AssertionError:
        program.signal(signal.SIGKILL)
        program.wait()
        return False
    return True


def _gone(process: Any) -> bool:
    try:
        process.wait(DEADLINE / 3)
    except Exception:  # psutil's TimeoutExpired; imported only where it is installed
        process.kill()
        return False
    return True


class RealTestCase(SynchronousTestCase):
    """Tests of a class share one workshop: made for its first test, closed after its last.

    trial has no `setUpClass`; the instances that it makes while loading tell which test is last.
    """

    workshop: ClassVar[Workshop]
    _to_run: ClassVar[int] = 0
    _open: ClassVar[bool] = False
    _failure: ClassVar[Exception | None] = None

    def __init__(self, methodName: str = "runTest") -> None:
        super().__init__(methodName)
        type(self)._to_run += 1

    @classmethod
    def furnish(cls) -> None:
        """Start what all tests of the class need in `cls.workshop`."""

    def setUp(self) -> None:
        need_llama()
        self.addCleanup(self._leave)
        if self._failure is not None:
            raise self._failure
        if not self._open:
            self._enter()

    @classmethod
    def _enter(cls) -> None:
        cls.workshop, cls._open = Workshop(), True
        try:
            cls.furnish()
        except SkipTest as skip:
            cls._failure = skip
            raise
        except Exception as failure:
            logs = "\n".join(program.tail() for program in cls.workshop.programs)
            cls._failure = AssertionError(f"{failure}\n{logs}")
            raise cls._failure from None

    @classmethod
    def _leave(cls) -> None:
        cls._to_run -= 1
        if cls._to_run <= 0 and cls._open:
            cls._open = False
            cls.workshop.close()
