"""What is told of nodes and of roles, and to whom."""

from pathlib import Path
from typing import Any

from attrs import evolve

from rolemesh.config.gateway import NodeRules
from rolemesh.config.keyfile import key_file_text
from rolemesh.config.private import write_private
from rolemesh.core.keys import ENTROPY, KeyKind, KeyRecord, mint
from rolemesh.core.model import Target
from tests.gateway.memory import CHAT, HELLO, GatewayCase, role, whole


class ViewCase(GatewayCase):
    """Two nodes, one of which serves `coder` and announces `writer`, the other `planner` alone."""

    def setUp(self) -> None:
        super().setUp()
        self.records: list[KeyRecord] = []
        self.tokens: list[KeyRecord] = []
        self.all, self.coder = self.key(1, roles="*"), self.key(2, roles=("coder",))
        self.admin = self.key(3, KeyKind.ADMIN)
        one, two = self.token(4, "one"), self.token(5, "two")
        keys, tokens = Path(self.mktemp()), Path(self.mktemp())
        write_private(keys, key_file_text(self.records))
        write_private(tokens, key_file_text(self.tokens))
        self.server = self.net.server()
        roles = [
            role(name=name, use=(Target(model=model),))
            for name, model in (("coder", "qwen"), ("planner", "gpt"))
        ]
        self.start(*roles, keys=keys, nodes=NodeRules(tokens=tokens))
        self.register("one", one, model="qwen", roles=["writer"])
        self.register("two", two, model="gpt")
        self.net.spend(2)

    def key(self, number: int, kind: KeyKind = KeyKind.CLIENT, **more: Any) -> dict[str, str]:
        text, record = mint(kind, bytes([number]) * ENTROPY, 1.0)
        self.records.append(evolve(record, **more))
        return {"Authorization": f"Bearer {text}"}

    def token(self, number: int, node: str) -> dict[str, str]:
        text, record = mint(KeyKind.NODE, bytes([number]) * ENTROPY, 1.0)
        self.tokens.append(evolve(record, node=node, roles="*"))
        return {"Authorization": f"Bearer {text}"}

    def register(self, node: str, token: dict[str, str], **more: Any) -> None:
        backend = {"id": "gpu0", "base_url": self.server.url, "key": "sk-own", **more}
        told = {"node": node, "instance": "one", "backends": [backend]}
        self.assertEqual(self.post("/v1/nodes/register", told, **token).status, 200)


class NodesTests(ViewCase):
    """`GET /v1/nodes`."""

    def test_all(self) -> None:
        """A key for every role sees every node."""
        found = self.get("/v1/nodes", **self.all).json["data"]
        self.assertEqual([each["node"] for each in found], ["one", "two"])

    def test_C23_some(self) -> None:
        """A key for some roles sees what serves these, and no name of another role or its model."""
        answer = self.get("/v1/nodes", **self.coder)
        (node,) = answer.json["data"]
        (backend,) = node["backends"]
        self.assertEqual((node["node"], backend["model"], backend["roles"]), ("one", "qwen", []))
        for hidden in (b"planner", b"writer", b"gpt", b"two", b"sk-own"):
            self.assertNotIn(hidden, answer.body)


class ReadyTests(ViewCase):
    """`GET /ready`."""

    def test_C23_without_a_key(self) -> None:
        """A balancer is told whether, and nobody without a key which roles there are."""
        answer = self.get("/ready")
        self.assertEqual((answer.status, answer.json), (200, {"status": "ready"}))

    def test_C23_with_a_key(self) -> None:
        """A client is told of its roles, an operator of all; a wrong key is a wrong key."""
        self.assertEqual(set(self.get("/ready", **self.coder).json["roles"]), {"coder"})
        everything = {"coder", "planner", "writer"}
        for key in (self.all, self.admin):
            self.assertEqual(set(self.get("/ready", **key).json["roles"]), everything)
        self.assertEqual(self.get("/ready", Authorization="Bearer rmk_wrong").status, 401)


class RequestTests(ViewCase):
    """`GET /v1/requests/{id}`."""

    def test_same_id_of_two_keys(self) -> None:
        """Clients choose ids: with another's, one neither reads nor replaces that one's record."""
        body = {"model": "coder", "messages": HELLO}
        for key in (self.all, self.coder):
            self.assertEqual(self.get("/v1/requests/same", **self.coder).status, 404)
            client = self.client().send("POST", CHAT, body, {**key, "X-Request-Id": "same"})
            self.server.work[-1].json(200, whole("hi"))
            self.turn()
            self.assertEqual(client.answer.status, 200)
        first = self.get("/v1/requests/same", **self.all).json
        other = self.get("/v1/requests/same", **self.coder).json
        self.assertNotEqual(first["at"], other["at"])
        self.assertEqual(self.get("/v1/requests/same", **self.admin).status, 401)
