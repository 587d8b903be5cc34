"""The whole node against a gateway of words, with real llama.cpp servers."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.process import ProcessReader
from twisted.internet.task import LoopingCall, deferLater
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent as HttpAgent
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from rolemesh.config.node import GpuChoice, NodeSettings, OnExit, Run
from rolemesh.core import endings
from rolemesh.core.model import BackendState as State
from rolemesh.core.report import BackendReport, Registration, read_registration
from rolemesh.core.vigil import Patience
from rolemesh.node import gpu, past, room, tap
from rolemesh.node.agent import Agent
from rolemesh.node.calls import Caller
from rolemesh.node.command import command_line
from rolemesh.node.identity import Records, fingerprint, instance_of
from rolemesh.node.proc import VARIABLE, process
from rolemesh.node.slumber import Slumber
from rolemesh.node.supervisor import Server
from rolemesh.node.survivors import Survivors
from rolemesh.node.tap import node_service
from tests.node.test_calls import body_of
from tests.node.test_gpu import AWAY, fake_nvml
from tests.real.harness import WIDTH, free_port, need, need_llama

LLAMA_SERVER = (sys.executable, "-m", "rolemesh.demo.llama_server")


class Gateway(Resource):
    """Takes what it is told and remembers it."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, str]] = []
        self.last: Registration | None = None
        self.reports: list[Registration] = []
        self.others: list[str] = []
        self.moved_to = ""

    def render(self, request: Request) -> bytes:
        self.told.append((request.method.decode(), request.path.decode()))
        if request.method == b"POST":
            self.last = read_registration(body_of(request))
            self.reports.append(self.last)
        if self.moved_to:
            request.redirect(f"{self.moved_to}{request.path.decode()}".encode())
        answer = {"node": "box2", "lease_s": 15, "heartbeat_s": 0.5, "gateways": self.others}
        return json.dumps(answer).encode()

    def backend(self, id: str = "gpu0") -> BackendReport | None:
        backends = self.last.backends if self.last else ()
        return next((backend for backend in backends if backend.id == id), None)

    def state(self, id: str = "gpu0") -> State | None:
        backend = self.backend(id)
        return None if backend is None else backend.state


def some_ports() -> range:
    first = free_port()
    return range(first, first + WIDTH)


def servers_of_ours(alias: str) -> list[int]:
    """The pids of the llama-servers that serve this alias."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            argv = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if alias.encode() in argv and b"rolemesh.demo.llama_server" in argv:
            found.append(int(folder.name))
    return found


async def until(true: Callable[[], object]) -> None:
    """Wait until something is so; the test's own timeout is the limit."""
    while not true():
        await deferLater(reactor, 0.02)


class AgentTestCase(TestCase):
    timeout = 180

    def setUp(self) -> None:
        need_llama()
        from rolemesh.demo.model import write_tiny_model

        self.file = write_tiny_model(self.mktemp()).absolute()
        self.alias = f"tiny-{os.getpid()}-{id(self)}"
        self.state = Path(self.mktemp()).absolute()
        self.state.mkdir()
        self.gateway = Gateway()
        self.url = self.serve(self.gateway)

    def serve(self, gateway: Gateway) -> str:
        """A gateway of words, and where it is."""
        site: Any = Site(gateway)
        port: Any = reactor.listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return f"http://127.0.0.1:{port.getHost().port}"

    def run_entry(self, id: str = "gpu0", **more: Any) -> Run:
        entry = Run(id, self.alias, self.file, slots=2, context=512, roles=("coder",))
        return evolve(entry, **{"llama_server": LLAMA_SERVER, "args": ("--no-warmup",), **more})

    def start(self, *runs: Run, **more: Any) -> Agent:
        settings = NodeSettings((self.url,), runs, name="box2", ports=some_ports(), **more)
        agent = node_service(reactor, settings, self.state)
        agent.startService()
        self.addCleanup(self.stop, agent)
        return agent

    async def stop(self, agent: Agent) -> None:
        if agent.running:
            await agent.stopService()
        await until(lambda: not any(isinstance(r, ProcessReader) for r in reactor.getReaders()))

    async def ready(self, id: str = "gpu0") -> BackendReport:
        await until(lambda: self.gateway.state(id) is State.READY)
        backend = self.gateway.backend(id)
        assert backend is not None
        return backend

    async def get(self, url: str, key: str) -> tuple[int, Any]:
        caller = Caller(HttpAgent(reactor), reactor, 5.0)
        answer = await caller.call("GET", url, bearer=key, limit=10**6)
        return answer.status, json.loads(answer.body)


class LifeTests(AgentTestCase):
    async def test_a_real_server_becomes_ready_and_is_reported(self) -> None:
        """The gateway is told a base URL and a key that work, and what the server itself says."""
        self.start(self.run_entry())
        backend = await self.ready()
        self.assertEqual((backend.context, backend.slots), (512, 2))
        self.assertEqual((backend.model, backend.roles), (self.alias, ("coder",)))
        self.assertTrue(backend.build)
        status, props = await self.get(f"{backend.base_url}/props", backend.key or "")
        self.assertEqual((status, props["model_alias"]), (200, self.alias))
        self.assertEqual((await self.get(f"{backend.base_url}/props", "wrong"))[0], 401)

    async def test_the_key_is_on_no_command_line(self) -> None:
        """What every user of the machine can read does not tell it."""
        self.start(self.run_entry())
        backend = await self.ready()
        (pid,) = servers_of_ours(self.alias)
        self.assertNotIn((backend.key or "").encode(), Path(f"/proc/{pid}/cmdline").read_bytes())

    async def test_a_killed_server_comes_back(self) -> None:
        """SIGKILL is told with its reason, and a second later there is another one."""
        self.start(self.run_entry())
        first = await self.ready()
        os.kill(servers_of_ours(self.alias)[0], signal.SIGKILL)
        await until(lambda: self.gateway.state() is State.BACKOFF)
        second = await self.ready()
        self.assertNotEqual(first.key, second.key)
        self.assertEqual(second.restarts, 1)
        assert second.last_exit is not None
        self.assertEqual(second.last_exit.reason, "signal: killed:9 SIGKILL")

    async def test_A9_a_wedged_server_is_replaced(self) -> None:
        """A real server that a signal holds is suspect, then ended, then there is another one."""
        self.patch(tap, "PATIENCE", Patience(suspect=2, wedged=4))
        self.start(self.run_entry())
        await self.ready()
        os.kill(servers_of_ours(self.alias)[0], signal.SIGSTOP)
        await until(lambda: self.gateway.state() is State.SUSPECT)
        await until(lambda: self.gateway.state() is State.BACKOFF)
        second = await self.ready()
        assert second.last_exit is not None
        self.assertIn("wedged: no progress for", second.last_exit.reason)

    async def test_A34_after_a_sleep_nothing_is_ready_that_has_not_answered(self) -> None:
        """The first report of a machine that woke says so already; its server goes on."""
        slept = 0.0
        self.patch(tap, "Slumber", partial(Slumber, slept=lambda: slept))
        self.start(self.run_entry())
        first = await self.ready()
        before, slept = len(self.gateway.reports), 3600.0
        await until(lambda: len(self.gateway.reports) >= before + 2)
        states = [report.backends[0].state for report in self.gateway.reports[before:][:2]]
        self.assertIn(State.SUSPECT, states)  # one may have been under way
        self.assertEqual((await self.ready()).key, first.key)

    async def test_A20_the_record_is_there_as_long_as_the_process(self) -> None:
        """A next agent could find it; after a stop there is nothing to be found."""
        agent = self.start(self.run_entry())
        url = (await self.ready()).base_url
        (identity,) = Records(self.state / "servers").read()
        self.assertEqual([identity.pid], servers_of_ours(self.alias))
        self.assertEqual((identity.exe, url), (sys.executable, f"http://127.0.0.1:{identity.port}"))
        argv = command_line(self.run_entry(), identity.host, identity.port)
        self.assertEqual(identity.argv_sha256, fingerprint(argv))
        self.assertEqual(identity.alive(), process(identity.pid))
        environment = Path(f"/proc/{identity.pid}/environ").read_bytes().split(b"\0")
        self.assertIn(f"ROLEMESH_INSTANCE={identity.instance}:gpu0".encode(), environment)
        await agent.stopService()
        self.assertEqual(Records(self.state / "servers").read(), [])

    async def test_A20_an_end_of_the_agent_is_none_of_who_is_kept(self) -> None:
        """Neither one in a hurry nor an orderly one, after which gateways go on with it too."""
        self.addCleanup(self.end_servers)
        agent = self.start(self.run_entry(), on_exit=OnExit.KEEP)
        backend = await self.ready()
        for end in (agent.kill, agent.stopService):
            await maybeDeferred(end)
            await deferLater(reactor, 0.1)
            answer = await self.get(f"{backend.base_url}/props", backend.key or "")
            self.assertEqual(answer[0], 200)
        self.assertNotIn(("DELETE", "/v1/nodes/box2"), self.gateway.told)

    async def end_servers(self) -> None:
        for pid in servers_of_ours(self.alias):
            os.kill(pid, signal.SIGKILL)
        await until(lambda: not servers_of_ours(self.alias))

    async def test_A20_a_survivor_is_ended_before_the_first_start(self) -> None:
        """A server of an agent before, of an entry that the file has no more."""
        tag = f"{instance_of(self.state)}:gone"
        survivor = subprocess.Popen(["sleep", "60"], env={VARIABLE: tag}, start_new_session=True)
        self.addCleanup(survivor.kill)
        self.start(self.run_entry())
        await self.ready()
        self.assertEqual(survivor.wait(), -signal.SIGKILL)

    async def test_A30_a_state_folder_that_takes_nothing_costs_the_record_alone(self) -> None:
        """The server runs, and that is said once."""
        (self.state / "servers").touch()  # a file where the folder should be
        self.start(self.run_entry())
        await self.ready()
        os.kill(servers_of_ours(self.alias)[0], signal.SIGKILL)
        await until(lambda: self.gateway.state() is State.BACKOFF)
        await self.ready()

    async def test_A30_heartbeats_go_on_while_the_disk_hangs(self) -> None:
        """A record that never comes to the disk delays a server by two seconds, reports by none."""
        release = threading.Event()
        self.addCleanup(release.set)
        self.patch(Records, "write", lambda *_: release.wait())
        self.start(self.run_entry())
        await until(lambda: self.gateway.state() is State.STARTING)
        told = len(self.gateway.told)
        await until(lambda: len(self.gateway.told) > told + 1)
        self.assertIsNot(self.gateway.state(), State.READY)
        await self.ready()
        release.set()

    async def test_A30_heartbeats_go_on_while_survivors_are_looked_for(self) -> None:
        """Before the first start and after each end; where nobody can tell, it goes on without."""
        release = threading.Event()
        self.addCleanup(release.set)
        for search in ("end_all", "end"):
            self.patch(Survivors, search, lambda *_, **__: release.wait())
        self.patch(past, "CLEARING", 0.3)
        self.start(self.run_entry())
        await self.ready()
        os.kill(servers_of_ours(self.alias)[0], signal.SIGKILL)
        await until(lambda: self.gateway.state() is State.BACKOFF)
        await self.ready()

    async def test_A30_a_record_does_not_wait_for_the_disk_of_models(self) -> None:
        """Which may be in another house: its server starts without an estimate, and is known."""
        release = threading.Event()
        self.addCleanup(release.set)
        self.patch(room, "read_weights", lambda _: release.wait())
        self.start(self.run_entry())
        await self.ready()
        found = [each.backend for each in Records(self.state / "servers").read()]
        self.assertEqual(found, ["gpu0"])

    async def test_a_second_gateway_is_told_without_an_edit(self) -> None:
        """The first one tells of it; the next agent knows it from the start."""
        second = Gateway()
        self.gateway.others = [self.serve(second)]
        agent = self.start()
        await until(lambda: second.last)
        self.assertIn(("POST", "/v1/nodes/register"), second.told)
        await agent.stopService()
        self.assertEqual(second.told[-1], ("DELETE", "/v1/nodes/box2"))
        self.gateway.others = []
        second.last = None
        self.start()
        await until(lambda: second.last)

    async def test_A40_a_redirect_is_not_followed(self) -> None:
        """Neither for what is told nor for what is asked: our token is for the file's gateways."""
        elsewhere = Gateway()
        self.gateway.moved_to = self.serve(elsewhere)
        self.start()
        paths = {"/v1/nodes/register", "/v1/nodes/box2/commands"}
        for _ in range(2):
            await until(lambda: paths <= {path for _, path in self.gateway.told})
            self.gateway.told.clear()
        self.assertEqual(elsewhere.told, [])

    async def test_the_machines_own_load_is_told(self) -> None:
        """Processors, memory and load come with each report."""
        self.start(self.run_entry())
        await self.ready()
        assert self.gateway.last is not None
        host = self.gateway.last.host
        assert host is not None
        self.assertEqual(host.cpus, os.cpu_count())
        self.assertGreater(host.memory_total or 0, host.memory_available or 0)
        await until(lambda: self.gateway.last.host.cpu is not None)  # type: ignore[union-attr]

    async def test_A15_a_server_waits_for_its_lost_gpu(self) -> None:
        """A real NVML client over a fake driver: the card goes, and comes back."""
        need(shutil.which("gcc") is not None, "gcc")
        away = Path(self.mktemp()).absolute()
        self.patch(gpu, "INTERVAL", 0.2)
        self.patch(os, "environ", {**os.environ, **fake_nvml(self.mktemp()), AWAY: str(away)})
        self.start(self.run_entry(gpu=GpuChoice((0,))), self.run_entry("cpu"))
        await self.ready()
        neighbour = await self.ready("cpu")
        away.touch()
        await until(lambda: self.gateway.state() is State.GPU_LOST)
        lost = self.gateway.backend()
        assert lost is not None
        assert lost.last_exit is not None
        self.assertIn("GPU 0 (NVIDIA H100 80GB HBM3): GPU is lost", lost.last_exit.reason)
        away.unlink()
        await self.ready()
        self.assertEqual((await self.ready("cpu")).key, neighbour.key)

    async def test_A19_a_stop_leaves_the_gateway_first_and_no_server(self) -> None:
        """The node deregisters, all servers are asked to end at once, and every process is gone."""
        agent, order, stop = self.start(self.run_entry(), self.run_entry("gpu1")), [], Server.stop

        def noted(server: Server) -> Deferred[None]:
            order.append(self.gateway.told[-1][0])
            return stop(server).addCallback(lambda _: order.append("gone"))

        self.patch(Server, "stop", noted)
        await self.ready()
        await self.ready("gpu1")
        self.assertEqual(len(servers_of_ours(self.alias)), 2)
        await agent.stopService()
        self.assertIn(("DELETE", "/v1/nodes/box2"), self.gateway.told)
        self.assertEqual(order, ["DELETE", "DELETE", "gone", "gone"])
        self.assertEqual(servers_of_ours(self.alias), [])

    async def test_A4_a_port_in_use_is_passed_over(self) -> None:
        """A stranger keeps its port, the server takes the next one."""
        ports = some_ports()
        with closing(socket.create_server(("127.0.0.1", ports[0]))):
            settings = NodeSettings((self.url,), (self.run_entry(),), name="box2", ports=ports)
            agent = node_service(reactor, settings, self.state)
            agent.startService()
            self.addCleanup(self.stop, agent)
            backend = await self.ready()
        self.assertIn(int(backend.base_url.rpartition(":")[2]), ports[1:])


class FailureTests(AgentTestCase):
    async def assertReason(self, expected: str, run: Run) -> None:
        """It is told so; perhaps not at first, as the wheel's server can lose its last lines."""
        self.start(run)
        await until(lambda: self.reason() == expected)

    def reason(self, id: str = "gpu0") -> str | None:
        backend = self.gateway.backend(id)
        last = None if backend is None else backend.last_exit
        return None if last is None else last.reason

    async def test_A1_a_missing_binary(self) -> None:
        """It is told by name of the error."""
        run = self.run_entry(llama_server=("/nowhere/llama-server",))
        await self.assertReason("exec_failed: ENOENT", run)

    async def test_A2_a_bad_argument(self) -> None:
        """llama-server's own last words tell it."""
        await self.assertReason("bad_argument: exit code 1", self.run_entry(args=("--frob",)))

    async def test_A37_a_missing_model(self) -> None:
        """A file that is not there."""
        run = self.run_entry(file=Path("/nowhere/m.gguf"))
        await self.assertReason("model_missing: no file m.gguf", run)

    async def test_A1_A37_what_is_missing_is_in_nobodys_way_and_starts_when_it_comes(self) -> None:
        """As the agent reads its file: one entry serves, the others say what they lack and wait."""
        self.patch(endings, "LOOP_ENDINGS", 1000)  # however often they try meanwhile
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        late = {"model": folder / "late.gguf", "program": folder / "llama-server"}
        server = folder / "server"
        server.write_text(f'#!/bin/sh\nexec {" ".join(LLAMA_SERVER)} "$@"\n')
        server.chmod(0o755)
        here = {"model": self.alias, "args": ["--no-warmup"], "file": str(self.file)}
        entries = [
            here | {"id": "gpu0"},
            here | {"id": "model", "file": str(late["model"])},
            here | {"id": "program", "llama_server": str(late["program"])},
        ]
        head = {"gateway": self.url, "llama_server": str(server), "run": entries}
        file = folder / "node_agent.yaml"
        file.write_text(json.dumps(head | {"restart": {"first": "200ms", "longest": "300ms"}}))
        settings = tap.Options().load(file)
        self.start(*settings.run, restart=settings.restart)
        await self.ready()
        await until(lambda: self.reason("model") == "model_missing: no file late.gguf")
        await until(lambda: self.reason("program") == "exec_failed: ENOENT")
        (pid,) = servers_of_ours(self.alias)
        late["model"].symlink_to(self.file)
        late["program"].symlink_to(server)
        await self.ready("model")
        await self.ready("program")
        self.assertIn(pid, servers_of_ours(self.alias))

    async def test_A37_a_pipe_is_no_model(self) -> None:
        """Nobody opens it, as that could wait for ever."""
        pipe = Path(self.mktemp()).absolute()
        os.mkfifo(pipe)
        await self.assertReason(
            f"model_broken: {pipe.name} is no plain file", self.run_entry(file=pipe)
        )

    async def test_A37_a_broken_model(self) -> None:
        """A file that is no model."""
        broken = Path(self.mktemp()).absolute()
        broken.write_bytes(os.urandom(4096))
        await self.assertReason("model_broken: exit code 1", self.run_entry(file=broken))

    async def test_A17_who_needs_no_gpu_waits_for_no_nvml(self) -> None:
        """A driver that has said nothing yet holds up those alone that name a card."""
        self.patch(gpu.Gpus, "_run_helper", lambda _: None)
        self.start(self.run_entry("waits", gpu=GpuChoice((0,))), self.run_entry())
        await self.ready()
        self.assertIsNone(self.gateway.backend("waits"))

    async def test_A17_a_gpu_that_is_not_here(self) -> None:
        """A machine without that GPU says so, and goes on with the other entries."""
        lost = self.run_entry("lost", gpu=GpuChoice(names=("no such gpu",)))
        self.start(lost, self.run_entry())
        await self.ready()
        await until(lambda: self.reason("lost"))
        self.assertEqual(self.gateway.state("lost"), State.BACKOFF)
        self.assertIn("gpu_missing: no GPU 'no such gpu'", self.reason("lost") or "")


class ReloadTests(AgentTestCase):
    async def test_A32_only_what_changed_is_touched(self) -> None:
        """One entry stays with its process, one goes, one comes."""
        agent = self.start(self.run_entry(), self.run_entry("old"))
        kept, _ = await self.ready(), await self.ready("old")
        await agent.run((self.run_entry(), self.run_entry("new")))
        await self.ready("new")
        now = self.gateway.backend()
        assert now is not None
        self.assertEqual((now.key, now.restarts), (kept.key, 0))
        self.assertIsNone(self.gateway.backend("old"))
        self.assertEqual(len(servers_of_ours(self.alias)), 2)

    async def test_A32_a_changed_entry_is_started_after_its_old_server_has_ended(self) -> None:
        """Never both on one GPU; its neighbour is not touched."""
        agent = self.start(self.run_entry(), self.run_entry("gpu1"))
        first, neighbour = await self.ready(), await self.ready("gpu1")
        most: list[int] = []
        watching = LoopingCall(lambda: most.append(len(servers_of_ours(self.alias))))
        watching.start(0.01)
        order = self.noted_ends_and_starts()
        await agent.run((self.run_entry(context=256), self.run_entry("gpu1")))
        await until(lambda: self.context() == 256)
        watching.stop()
        self.assertEqual((max(most), order), (2, ["gone", "started"]))
        self.assertNotEqual((await self.ready()).key, first.key)
        self.assertEqual((await self.ready("gpu1")).key, neighbour.key)

    def noted_ends_and_starts(self) -> list[str]:
        """What becomes of servers from now on."""
        order, start, stop = list[str](), Server.start, Server.stop

        def noted_start(server: Server) -> None:
            order.append("started")
            start(server)

        def noted_stop(server: Server) -> Deferred[None]:
            return stop(server).addCallback(lambda _: order.append("gone"))

        self.patch(Server, "start", noted_start)
        self.patch(Server, "stop", noted_stop)
        return order

    def context(self) -> int:
        backend = self.gateway.backend()
        return backend.context if backend and backend.state is State.READY else 0
