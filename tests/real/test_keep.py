"""`on_exit: keep`: servers go on when their agent ends, in whatever way, and the next one adopts
them, once."""

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

from rolemesh.node.identity import Records
from tests.real.harness import (
    LLAMA_SERVER,
    TWISTD,
    Program,
    RealTestCase,
    Server,
    answers,
    ask,
    eventually,
    free_port,
)

KEPT = ("id", "base_url", "restarts")
QUESTION = {"model": "planner", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


class KeptServer(RealTestCase):
    """One gateway, one state folder, several agents after each other."""

    gateway: ClassVar[Server]
    ports: ClassVar[str]
    state: ClassVar[Path]

    @classmethod
    def furnish(cls) -> None:
        cls.gateway = cls.workshop.gateway("roles: {planner: tiny}")
        first = free_port()
        cls.ports = f"{first}-{first + 5}"
        cls.state = cls.workshop.folder / "kept"

    def agent(self, on_exit: str = "keep", **more: Any) -> Program:
        entry = {"id": "cpu", "model": "tiny", "file": str(self.workshop.model()), "context": 4096}
        settings = {
            "gateway": self.gateway.url,
            "name": "box",
            "llama_server": list(LLAMA_SERVER),
            "ports": self.ports,
            "on_exit": on_exit,
            "run": [{**entry, "slots": 2, "args": ["-t", "1", "--no-warmup"], **more}],
        }
        path = self.workshop.file("kept.yaml", json.dumps(settings))
        argv = [*TWISTD, "rolemesh-node", "--config", str(path), "--state", str(self.state)]
        started = self.workshop.start("node", argv)
        self.addCleanup(self.end_all)
        return started

    def adopting(self, pid: int, asking: "Asking") -> Program:
        """Another agent, which has taken over that process."""
        agent = self.agent()
        agent.until("it is adopted", lambda: f"adopted process {pid}" in agent.text())
        agent.until("it is ready", lambda: "cpu: starting -> ready" in agent.text())
        asked = asking.asked
        eventually("it was asked meanwhile", lambda: asking.asked > asked + 2)
        return agent

    def end_all(self) -> None:
        """Whatever a failed test left."""
        for program in self.workshop.programs:
            if program.name == "node":
                program.stop()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def pids(self) -> list[int]:
        """The llama-servers of this state folder, by their records."""
        found = Records(self.state / "servers").read()
        return [each.pid for each in found if each.alive() is not None]

    def ready(self) -> bool:
        return answers(f"{self.gateway.url}/ready")

    def backend(self) -> Any:
        (node,) = ask(f"{self.gateway.url}/v1/nodes").json()["data"]
        (backend,) = node["backends"]
        return backend

    def chat(self) -> int:
        return ask(f"{self.gateway.url}/v1/chat/completions", QUESTION).status

    def test_A20_A21_agents_come_and_go_and_the_server_serves(self) -> None:
        """SIGTERM and SIGKILL to the agent: no request fails, and it is the same process, port and
        key; a stop with the default ends it."""
        agent = self.agent()
        agent.until("ready", self.ready)
        (pid,), before = self.pids(), self.backend()
        asking = Asking(self)
        for number in (signal.SIGTERM, signal.SIGKILL):
            agent.signal(number)
            agent.wait()
            agent = self.adopting(pid, asking)
        self.assertEqual(asking.end(), [])
        self.assertEqual(self.pids(), [pid])
        same = [before.get(key) for key in KEPT]
        eventually("it is the same", lambda: [self.backend().get(key) for key in KEPT] == same)
        self.check_it_is_still_supervised(agent, pid)
        agent.stop()
        self.assertEqual(len(self.pids()), 1)
        last = self.agent(on_exit="stop")
        last.until("a new one is ready", lambda: "-> ready" in last.text())
        self.assertEqual(last.stop(), 0)
        self.assertEqual(self.pids(), [])

    def check_it_is_still_supervised(self, agent: Program, pid: int) -> None:
        """An adopted server that is killed is replaced, as any other."""
        os.kill(pid, signal.SIGKILL)
        agent.until("its end is seen", lambda: "cpu: ready -> backoff" in agent.text())
        eventually("another one answers", lambda: self.pids() not in ([], [pid]))
        eventually("the role answers", lambda: self.chat() == 200)

    def test_A32_a_changed_entry_is_not_adopted(self) -> None:
        """What the file wants now is not what runs: it is ended before the new one starts."""
        agent = self.agent()
        agent.until("ready", lambda: "-> ready" in agent.text())
        (pid,) = self.pids()
        agent.stop()
        other = self.agent(context=2048)
        other.until("ready", lambda: "-> ready" in other.text())
        self.assertNotIn("adopted", other.text())
        self.assertNotIn(pid, self.pids())
        self.assertEqual(len(self.pids()), 1)
        other.stop()


class Asking:
    """Asks without a pause until told to end."""

    def __init__(self, case: KeptServer) -> None:
        self._case = case
        self._statuses: list[int] = []
        self._ended = False
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    @property
    def asked(self) -> int:
        return len(self._statuses)

    def _ask(self) -> None:
        while not self._ended:
            self._statuses.append(self._case.chat())
            time.sleep(0.05)

    def end(self) -> list[int]:
        """What was not answered well."""
        self._ended = True
        self._thread.join(30)
        return [status for status in self._statuses if status != 200]
