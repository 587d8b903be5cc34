"""Tests of one client: its program asks through a gateway, and then the server itself."""

import json
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar

import tests
from tests.real.clients import installed
from tests.real.harness import Program, RealTestCase, Server

ROOT = Path(tests.__file__).parents[1]
ROLE = "coder"
PATIENCE = 240.0  # seconds for all that one program asks
SILENCE = {  # nothing of what the clients do here is for those who made them
    "DO_NOT_TRACK": "1",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "ERROR",
    "LOGFIRE_SEND_TO_LOGFIRE": "false",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
}


def _told(program: Program) -> dict[str, Any]:
    """What a client's program printed."""
    assert program.wait(PATIENCE) == 0, program.text()
    found: dict[str, Any] = json.loads(program.text().splitlines()[-1])
    return found


class ClientTestCase(RealTestCase):
    """One server, one gateway, and what the client's program got from each."""

    program: ClassVar[str]
    gateway: ClassVar[Server]
    mine: ClassVar[dict[str, Any]]
    own: ClassVar[dict[str, Any]]

    def setUp(self) -> None:
        self.need_client()
        super().setUp()

    @classmethod
    def need_client(cls) -> None:
        installed.python()

    @classmethod
    def furnish(cls) -> None:
        server = cls.workshop.llama_server(cls.workshop.model(), "--jinja")
        cls.gateway = cls.workshop.gateway(f"roles: {{{ROLE}: {server.url}}}")
        both = [cls.start(cls.gateway), cls.start(server)]
        cls.mine, cls.own = [_told(program) for program in both]

    @classmethod
    def start(cls, server: Server) -> Program:
        module = f"tests.real.clients.programs.{cls.program}"
        argv = [str(installed.python()), "-m", module, server.url, ROLE]
        home = mkdtemp(dir=cls.workshop.folder)
        return cls.workshop.start(
            cls.program, argv, PYTHONPATH=str(ROOT), HOME=home, LLM_USER_PATH=home, **SILENCE
        )

    def value(self, case: str) -> Any:
        """What a case came to through the gateway, which is what the server itself gives."""
        self.assertIn("value", self.mine[case], self.mine[case])
        self.assertEqual(self.mine[case], self.own[case])
        return self.mine[case]["value"]

    def error(self, case: str) -> dict[str, Any]:
        """What a case failed with through the gateway."""
        self.assertIn("error", self.mine[case], self.mine[case])
        found: dict[str, Any] = self.mine[case]["error"]
        return found

    def assert_helps(self, case: str) -> None:
        """The user of a role with a slip in its name reads which one was meant."""
        self.assertIn(f"Did you mean '{ROLE}'?", self.error(case)["text"])


class NodeTestCase(ClientTestCase):
    """The same for a program of Node's."""

    @classmethod
    def need_client(cls) -> None:
        installed.node_modules()

    @classmethod
    def start(cls, server: Server) -> Program:
        folder = cls.workshop.folder
        if not (folder / "node_modules").exists():
            (folder / "node_modules").symlink_to(installed.node_modules())
            for module in installed.NODE.glob("*.mjs"):
                shutil.copy(module, folder)
        argv = ["node", str(folder / f"{cls.program}.mjs"), server.url, ROLE]
        return cls.workshop.start(cls.program, argv, HOME=str(folder), **SILENCE)
