"""The promises of `rolemesh.gateway.nodes`: rows N2 to N10 and N13 among them."""

from pathlib import Path
from typing import Any

from attrs import evolve

from rolemesh.config.gateway import NodeRules
from rolemesh.config.keyfile import key_file_text
from rolemesh.config.private import write_private
from rolemesh.core.keys import ENTROPY, KeyKind, KeyRecord, mint
from rolemesh.core.model import Requirements, Target
from tests.doubles import raw
from tests.gateway.memory import GatewayCase, Server, role, whole

REGISTER = "/v1/nodes/register"


class NodesCase(GatewayCase):
    """A gateway whose role `coder` is served by whichever node has the model `qwen`."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.net.server()

    def begin(self, **more: Any) -> None:
        coder = role(use=(Target(model="qwen"),), require=Requirements(context=8192))
        self.start(coder, **more)

    def plain(self, **more: Any) -> dict[str, Any]:
        return {"node": "box2", "base_url": self.server.url, "roles": ["writer"], **more}

    def backend(self, **more: Any) -> dict[str, Any]:
        found = {"id": "gpu0", "base_url": self.server.url, "model": "qwen", "context": 16384}
        return {**found, **more}

    def full(self, *backends: dict[str, Any], **more: Any) -> dict[str, Any]:
        told = {"node": "box2", "instance": "one", "generation": 1}
        return {**told, "backends": list(backends) or [self.backend()], **more}

    def register(self, told: object, **headers: str) -> raw.Answer:
        answer = self.post(REGISTER, told, **headers)
        self.net.spend(1)
        return answer

    def beat(self, told: dict[str, Any], **headers: str) -> raw.Answer:
        return self.post(f"/v1/nodes/{told['node']}/heartbeat", told, **headers)

    def served_by(self, server: Server, model: str) -> raw.Answer:
        client = self.ask(model=model)
        server.work[-1].json(200, whole("hi"))
        self.turn()
        return client.answer


class GatewaysTests(NodesCase):
    """Of which gateways a node is told."""

    def told(self) -> list[tuple[list[str], str]]:
        """By a registration, a heartbeat, and a heartbeat that came late."""
        answers = [self.register(self.full())]
        answers += [self.beat(self.full(generation=number)) for number in (2, 1)]
        return [(answer.json["gateways"], answer.json["gateway"]) for answer in answers]

    def test_where(self) -> None:
        """Of this one, by the URL that its file names, and always which one it is that answers."""
        self.begin(nodes=NodeRules(advertise="http://gw1.lan:8000"))
        [(urls, id)] = {(tuple(urls), id) for urls, id in self.told()}
        self.assertEqual((urls, len(id)), (("http://gw1.lan:8000",), 32))

    def test_nowhere(self) -> None:
        """A gateway that does not know by which URL it is reached tells none."""
        self.begin()
        self.assertEqual([urls for urls, _ in self.told()], [[]] * 3)


class RegisterTests(NodesCase):
    """Both forms of a registration."""

    def setUp(self) -> None:
        super().setUp()
        self.begin()

    def test_plain(self) -> None:
        """What a person types makes a role answer, once its server was found to be well."""
        answer = self.register(self.plain())
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.json["accepted"], ["server"])
        self.assertEqual((answer.json["lease_s"], answer.json["heartbeat_s"]), (15, 5))
        served = self.served_by(self.server, "writer")
        self.assertEqual((served.status, served.headers["x-rolemesh-node"]), (200, "box2"))

    def test_P15_not_before_its_check(self) -> None:
        """Before a check went well nothing is sent to it: a request waits, and is then refused."""
        self.server.mood = "silent"
        self.post(REGISTER, self.plain())
        client = self.ask(model="writer")
        self.assertFalse(client.answered)
        self.net.spend(3)
        self.assert_refused(client.answer, 503, "role_unavailable")
        self.assertEqual(self.server.work, [])

    def test_full(self) -> None:
        """What an agent sends serves the roles of its model, with the backend's own key."""
        answer = self.register(self.full(self.backend(key="sk-own")))
        self.assertEqual(answer.json["accepted"], ["gpu0"])
        self.assertEqual(self.served_by(self.server, "coder").status, 200)
        got = self.server.work[0].request
        self.assertEqual(got.header("authorization"), "Bearer sk-own")
        self.assertEqual(got.json()["model"], "qwen")

    def test_refused_roles(self) -> None:
        """A role whose requirements a backend lacks is refused with a reason; the rest is taken."""
        answer = self.register(self.full(self.backend(context=4096, roles=["writer"])))
        self.assertEqual(answer.status, 200)
        (refused,) = answer.json["refused"]
        self.assertEqual((refused["backend"], refused["code"]), ("gpu0", "role_not_allowed"))
        wanted = "box2/gpu0 is not in 'coder': 4096 tokens per slot, the role requires 8192"
        self.assertEqual(refused["message"], wanted)
        self.assertEqual(self.ready("writer"), (1, 1))
        self.assertEqual(self.ready("coder")[0], 0)

    def test_list(self) -> None:
        """`/v1/nodes` shows who is there and how they are, without an address or a key."""
        self.register(self.full(self.backend(key="sk-own", slots=2), labels={"site": "cellar"}))
        answer = self.get("/v1/nodes")
        (node,) = answer.json["data"]
        self.assertEqual((node["node"], node["labels"]), ("box2", {"site": "cellar"}))
        (backend,) = node["backends"]
        self.assertEqual((backend["id"], backend["ready"], backend["slots"]), ("gpu0", True, 2))
        for secret in (b"sk-own", b"127.0.0.1"):
            self.assertNotIn(secret, answer.data)

    def test_orphaned_slots(self) -> None:
        """Slots that a node reports busy are orphans where nobody of ours waits for them."""
        self.register(self.full(self.backend(slots=2)))
        self.beat(self.full(self.backend(slots=2, slots_busy=1), generation=2))
        self.assertEqual(self.orphans(), 1)
        self.ask(model="coder")
        self.assertEqual(self.orphans(), 0)

    def orphans(self) -> object:
        (node,) = self.get("/v1/nodes").json["data"]
        return node["backends"][0]["orphaned_slots"]

    def test_leave(self) -> None:
        """A node that leaves is gone at once; one that is not there is 410."""
        self.register(self.full())
        answer = self.get("/v1/nodes/box2", "DELETE")
        self.assertEqual(answer.json, {"node": "box2", "deleted": True})
        self.assertEqual(self.ready("coder"), (0, 0))
        self.assert_refused(self.get("/v1/nodes/box2", "DELETE"), 410, "unknown_node")

    def test_running_goes_on(self) -> None:
        """What a node is answering when it leaves is answered."""
        self.register(self.full())
        client = self.ask()
        self.get("/v1/nodes/box2", "DELETE")
        self.server.work[0].json(200, whole("hi"))
        self.turn()
        self.assertEqual(client.answer.json, whole("hi"))

    def test_N2_conflict(self) -> None:
        """Another agent with the name of one that is alive is 409."""
        self.register(self.full())
        answer = self.register(self.full(instance="two"))
        self.assert_refused(answer, 409, "node_id_conflict")

    def test_N3_moved(self) -> None:
        """A server that moved is checked anew, and then found at its new place alone."""
        self.register(self.full())
        other = self.net.server()
        self.register(self.full(self.backend(base_url=other.url), generation=2))
        self.assertEqual(self.served_by(other, "coder").status, 200)
        self.assertEqual(self.server.work, [])


class HeartbeatTests(NodesCase):
    """What keeps a lease alive."""

    def setUp(self) -> None:
        super().setUp()
        self.begin()
        self.register(self.full())

    def test_P11_lease(self) -> None:
        """Without heartbeats the node is out after its lease; with the next one it is back."""
        self.net.spend(13)
        self.assertEqual(self.ready("coder"), (1, 1))
        self.net.spend(3)
        self.assertEqual(self.ready("coder"), (0, 1))
        self.assertEqual(self.beat(self.full(generation=2)).status, 200)
        self.assertEqual(self.ready("coder"), (1, 1))

    def test_P11_kept(self) -> None:
        """With heartbeats it stays."""
        for generation in range(2, 8):
            self.net.spend(5, 0.5)
            self.beat(self.full(generation=generation))
        self.assertEqual(self.ready("coder"), (1, 1))

    def test_P11_running_goes_on(self) -> None:
        """The end of a lease ends no answer."""
        client = self.stream()
        self.server.work[0].head()
        self.server.work[0].text("one")
        self.net.spend(20)
        self.server.work[0].text("two", finish="stop")
        self.server.work[0].done()
        self.turn()
        self.assertEqual(client.answer.text, "onetwo")
        self.assertTrue(client.answer.finished)

    def test_state(self) -> None:
        """A server that is loading is out at once, and its progress is told to who asks."""
        self.beat(self.full(self.backend(state="loading", progress="42 %"), generation=2))
        self.assertEqual(self.ready("coder"), (0, 1))
        error = self.assert_refused(self.ask().answer, 503, "model_loading")
        self.assertIn("loading, 42 %", str(error["message"]))

    def test_stale(self) -> None:
        """An older report is answered and dropped."""
        self.beat(self.full(self.backend(state="loading"), generation=5))
        self.assertEqual(self.beat(self.full(generation=4)).status, 200)
        self.assertEqual(self.ready("coder"), (0, 1))

    def test_unknown_node(self) -> None:
        """A gateway that knows nothing of a node asks it to register."""
        answer = self.beat(self.full(node="box9"))
        self.assert_refused(answer, 410, "unknown_node")

    def test_of_another(self) -> None:
        """A heartbeat speaks for the node of its path."""
        answer = self.post("/v1/nodes/box9/heartbeat", self.full())
        self.assert_refused(answer, 400, "bad_request")


class ShapeTests(NodesCase):
    """What is no registration is told so, by field."""

    def setUp(self) -> None:
        super().setUp()
        self.begin()

    def refused(self, told: object, code: str = "bad_request", status: int = 400) -> str:
        error = self.assert_refused(self.post(REGISTER, told), status, code)
        self.assertEqual(self.get("/v1/nodes").json["data"], [])
        return str(error["message"])

    def test_ill_typed(self) -> None:
        """An ill-typed or missing field is named."""
        self.assertIn("node", self.refused({}))
        self.assertIn("$.node", self.refused(self.plain(node=7)))
        self.assertIn("$.roles", self.refused(self.plain(roles="writer")))
        self.assertIn("backends", self.refused(self.full({**self.backend(), "slots": "two"})))
        self.assertIn("slots", self.refused(self.full(self.backend(slots=0))))
        self.assertIn("context", self.refused(self.full(self.backend(context=-1))))
        self.assertIn("state", self.refused(self.full(self.backend(state="flying"))))

    def test_unknown_fields(self) -> None:
        """A field that there is not is named, for it is a slip of the pen."""
        self.assertIn("role", self.refused({**self.plain(), "role": ["writer"]}))

    def test_names(self) -> None:
        """Names are short and plain: they stand in headers, paths and log lines."""
        for name in ("", "a b", "../x", "é", "a" * 65, "a\n", "-x"):
            self.assertIn("node", self.refused(self.plain(node=name)))
            self.assertIn("roles", self.refused(self.plain(roles=[name])))

    def test_own_name(self) -> None:
        """No node has the name under which the configuration's servers stand."""
        self.assertIn("static", self.refused(self.plain(node="static")))

    def test_both_forms(self) -> None:
        """A registration has one form, and all of it."""
        self.refused({**self.full(), "base_url": self.server.url, "roles": ["writer"]})
        self.refused(self.plain(roles=[]))
        self.refused({"node": "box2"}, "missing_required_parameter")

    def test_same_id_twice(self) -> None:
        """Two backends of a node have two ids."""
        self.refused(self.full(self.backend(), self.backend()))

    def test_no_json(self) -> None:
        """What is no JSON is 400."""
        for body in (b"", b"node=box2", b'{"node":"\xff"}', b'{"x":' * 5000):
            self.refused(body, "invalid_json")

    def test_N10_too_large(self) -> None:
        """More than 64 KiB are 413."""
        told = self.full(labels={str(n): "x" * 200 for n in range(400)})
        self.refused(told, "request_too_large", 413)

    def test_N10_too_many(self) -> None:
        """More backends than a machine has GPUs are refused."""
        self.assertIn(
            "backends", self.refused(self.full(*[self.backend(id=f"g{n}") for n in range(17)]))
        )

    def test_N10_no_numbers(self) -> None:
        """Numbers that are none are refused."""
        body = b'{"node":"box2","instance":"one","gpus":[{"uuid":"G","power":NaN}]}'
        self.refused(body, "invalid_json")

    def test_origin(self) -> None:
        """A browser's page registers nobody."""
        answer = self.register(self.plain(), Origin="http://evil.example")
        self.assert_refused(answer, 403, "scope_missing")
        self.assertEqual(self.get("/v1/nodes").json["data"], [])

    def test_methods(self) -> None:
        """Wrong methods and paths are told by the table."""
        self.assert_refused(self.get(REGISTER, "PUT"), 405, "method_not_allowed")
        self.assert_refused(self.get("/v1/nodes/box2/nothing"), 404, "unknown_url")


class TokenTests(NodesCase):
    """N8 and N13: a token speaks for one node and its roles."""

    def setUp(self) -> None:
        super().setUp()
        keys, tokens = Path(self.mktemp()), Path(self.mktemp())
        text, record = mint(KeyKind.CLIENT, bytes([1]) * ENTROPY, 1.0)
        self.client_key = {"Authorization": f"Bearer {text}"}
        write_private(keys, key_file_text([evolve(record, roles="*")]))
        self.tokens: list[KeyRecord] = []
        self.writer = self.token(2, node="box2", roles=("writer",))
        self.other = self.token(3, node="box3", roles="*")
        write_private(tokens, key_file_text(self.tokens))
        self.file = tokens
        self.begin(keys=keys, nodes=NodeRules(tokens=tokens))

    def token(self, number: int, **more: Any) -> dict[str, str]:
        text, record = mint(KeyKind.NODE, bytes([number]) * ENTROPY, 1.0)
        self.tokens.append(evolve(record, **more))
        return {"Authorization": f"Bearer {text}"}

    def test_own(self) -> None:
        """A token registers its own node."""
        self.assertEqual(self.register(self.plain(), **self.writer).json["refused"], [])
        self.assertEqual(self.ready("writer", **self.client_key), (1, 1))

    def test_N8_anothers(self) -> None:
        """Another's token, a client's key and none at all do not, nor do they beat or leave."""
        self.register(self.full(), **self.writer)
        for headers, status in ((self.other, 403), (self.client_key, 401), (raw.NONE, 401)):
            answers = (
                self.register(self.full(generation=2), **headers),
                self.beat(self.full(generation=2), **headers),
                self.get("/v1/nodes/box2", "DELETE", **headers),
            )
            self.assertEqual([answer.status for answer in answers], [status] * 3)
        listed = self.get("/v1/nodes", **self.client_key).json["data"]
        self.assertEqual([node["node"] for node in listed], ["box2"])

    def test_N8_revoked(self) -> None:
        """Within two seconds of its token's end a node gets nothing new, also one without an agent;
        what it answers it may finish, and it does not come back by that token."""
        for told in (self.plain(), self.full(self.backend(roles=["writer"]))):
            self.register(told, **self.writer)
            client = self.ask(model="writer", headers=self.client_key)
            ended = [evolve(each, disabled=each.node == "box2") for each in self.tokens]
            write_private(self.file, key_file_text(ended))
            self.net.spend(2)
            self.assertEqual(self.ready("writer", **self.client_key), (0, 0))
            self.assertEqual(self.register(told, **self.writer).status, 401)
            self.server.work[-1].json(200, whole("hi"))
            self.turn()
            self.assertEqual(client.answer.json, whole("hi"))
            write_private(self.file, key_file_text(self.tokens))
            self.net.spend(1)

    def test_N5_nothing_of_a_check_goes_back(self) -> None:
        """Who registers a server is told nothing that the gateway has read there: else one could
        read by it what one cannot reach."""
        self.server.llama(slots=7, context=12345, build_info="what-it-is")
        told = self.full(self.backend(roles=["writer"], context=0))
        answers = [self.register(told, **self.writer), self.beat(told, **self.writer)]
        answers.append(self.get("/v1/nodes/box2", **self.writer))
        for answer in answers:
            self.assertEqual(answer.status, 200)
            for read in (b"what-it-is", b"12345", b'"slots":7'):
                self.assertNotIn(read, answer.body)
        listed = self.get("/v1/nodes", **self.client_key).body
        self.assertIn(b"what-it-is", listed)

    def test_N8_unreadable_tokens(self) -> None:
        """While nobody can tell who is revoked, nobody is let go."""
        self.register(self.full(self.backend(roles=["writer"])), **self.writer)
        self.file.chmod(0o644)
        self.net.spend(5)
        self.assertEqual(self.ready("writer", **self.client_key), (1, 1))

    def test_N8_no_chat(self) -> None:
        """A node's token asks for no answer and sees no nodes."""
        self.assert_refused(self.ask(headers=self.writer).answer, 401, "invalid_api_key")
        self.assert_refused(self.get("/v1/nodes", **self.writer), 401, "invalid_api_key")

    def test_N13_roles(self) -> None:
        """A role that its token does not allow is refused, announced or by its model alike."""
        told = self.full(self.backend(roles=["writer", "planner"]))
        answer = self.register(told, **self.writer)
        self.assertEqual(answer.status, 200)
        messages = sorted(each["message"] for each in answer.json["refused"])
        wanted = [
            f"box2/gpu0 is not in '{name}': its token does not allow that role"
            for name in ("coder", "planner")
        ]
        self.assertEqual(messages, wanted)
        self.assertEqual(self.ready("writer", **self.client_key), (1, 1))
        self.assertEqual(self.ready("coder", **self.client_key), (0, 0))
        answer = self.ask(headers=self.client_key).answer
        self.assert_refused(answer, 503, "role_unavailable")
