"""The promises of `rolemesh.gateway.web`: rows C9 to C15, C22 to C25 among them."""

from pathlib import Path
from typing import Any

from attrs import evolve

from rolemesh.config.gateway import NodeRules
from rolemesh.config.keyfile import key_file_text
from rolemesh.config.private import write_private
from rolemesh.core.keys import ENTROPY, KeyKind, KeyRecord, Scope, mint
from rolemesh.core.model import Requirements, Target
from rolemesh.core.openai import Api
from rolemesh.gateway import asking
from tests.doubles import raw
from tests.gateway.memory import CHAT, GatewayCase, role, whole


class ModelsTests(GatewayCase):
    """`/v1/models`: roles, from memory."""

    def setUp(self) -> None:
        super().setUp()
        self.a, self.b = (
            self.net.server().llama(context=8192),
            self.net.server().llama(context=4096),
        )
        planner = role(self.b, name="planner", aliases=("gpt-4o", "org/model:7b", "claude-*"))
        self.start(role(self.a, self.b), planner)

    def test_list(self) -> None:
        """Each role is a model, in OpenAI's shape, with the least context of its ready backends."""
        answer = self.get("/v1/models")
        self.assertEqual((answer.status, answer.json["object"]), (200, "list"))
        models = {model["id"]: model for model in answer.json["data"]}
        self.assertEqual(set(models), {"coder", "planner"})
        coder = models["coder"]
        self.assertEqual((coder["object"], coder["owned_by"]), ("model", "rolemesh"))
        self.assertIsInstance(coder["created"], int)
        self.assertEqual((coder["context_length"], coder["meta"]["n_ctx"]), (4096, 4096))
        self.assertEqual((coder["rolemesh"]["ready"], coder["rolemesh"]["total"]), (2, 2))

    def test_from_memory(self) -> None:
        """No backend is asked for it."""
        before = len(self.a.checks)
        self.get("/v1/models")
        self.assertEqual((len(self.a.checks), self.a.work), (before, []))

    def test_not_ready(self) -> None:
        """A role with nobody ready is listed, and says so."""
        self.b.mood = "refuse"
        self.net.spend(6)
        found = self.get("/v1/models/planner").json
        self.assertEqual((found["rolemesh"]["ready"], found["rolemesh"]["total"]), (0, 1))
        self.assertNotIn("context_length", found)

    def test_retrieve(self) -> None:
        """A role and an alias are found, also with slashes, colons, and percent signs for them."""
        names = ("coder", "gpt-4o", "org/model:7b", "org%2Fmodel%3A7b", "claude-3-haiku")
        for name in names:
            answer = self.get(f"/v1/models/{name}")
            self.assertEqual(answer.status, 200, name)
            self.assertEqual(answer.json["object"], "model")
        self.assertEqual(self.get("/v1/models/org/model:7b").json["id"], "org/model:7b")

    def test_C23_unknown(self) -> None:
        """An unknown one is 404 with the roles that there are and the one that was meant."""
        error = self.assert_refused(self.get("/v1/models/codr"), 404, "model_not_found")
        self.assertIn("Did you mean 'coder'?", str(error["message"]))
        self.assertIn("coder, planner", str(error["message"]))
        self.assertEqual(error["param"], "model")

    def test_C23_unknown_in_a_request(self) -> None:
        """So it is where a request names it; without a name, that is said."""
        answer = self.ask(model="codr").answer
        self.assert_refused(answer, 404, "model_not_found")
        answer = self.post(CHAT, {"messages": []})
        self.assert_refused(answer, 400, "missing_required_parameter")

    def test_C24_odd_names(self) -> None:
        """Odd names are 404, and are told back only where they are fit for it."""
        for name in ("é", "\u202ecoder", "../coder", "x" * 5000, "CODER", "a\nb"):
            answer = self.ask(model=name).answer
            error = self.assert_refused(answer, 404, "model_not_found")
            self.assertNotIn("\u202e", str(error["message"]))
            self.assertLess(len(str(error["message"])), 500)


class LifeTests(GatewayCase):
    """What balancers and people ask first."""

    def test_health(self) -> None:
        """`/health` is 200 whatever the backends are."""
        self.start(role(use=(Target(model="nobody's"),)))
        self.assertEqual(
            (self.get("/health").status, self.get("/health").json), (200, {"status": "ok"})
        )

    def test_ready(self) -> None:
        """`/ready` is 200 with each role's numbers while some role can be served."""
        a, b = self.net.server(), self.net.server()
        self.start(role(a, b), role(name="planner", use=(Target(model="m"),)))
        b.mood = "refuse"
        self.net.spend(6)
        answer = self.get("/ready")
        self.assertEqual((answer.status, answer.json["status"]), (200, "ready"))
        coder = answer.json["roles"]["coder"]
        self.assertEqual((coder["ready"], coder["total"]), (1, 2))
        self.assertEqual(coder["missing"], ["static/coder-2 is down"])
        self.assertEqual(answer.json["roles"]["planner"], {"ready": 0, "total": 0, "missing": []})

    def test_not_ready(self) -> None:
        """`/ready` is 503, and says what is missing, when no role can be."""
        (a,) = self.mesh(1)
        a.health = (503, {"error": {"message": "Loading model"}})
        self.net.spend(3)
        answer = self.get("/ready")
        self.assertEqual((answer.status, answer.json["status"]), (503, "unavailable"))
        self.assertEqual(answer.json["roles"]["coder"]["missing"], ["static/coder is loading"])

    def test_requirement_named(self) -> None:
        """What a backend lacks to be in a role is told with its numbers."""
        a = self.net.server().llama(context=4096)
        self.start(role(a, require=Requirements(context=65536)))
        (missing,) = self.get("/ready").json["roles"]["coder"]["missing"]
        self.assertIn("4096 tokens per slot, the role requires 65536", missing)

    def test_home_and_head(self) -> None:
        """`/` answers, and HEAD is GET without a body."""
        self.mesh(1)
        self.assertEqual(self.get("/").status, 200)
        for path in ("/", "/health", "/ready", "/v1/models"):
            answer = self.get(path, "HEAD")
            self.assertEqual((answer.status, answer.body), (200, b""), path)
            self.assertTrue(self.get(path).finished)


class ErrorTests(GatewayCase):
    """What is no request of ours is answered by the one table."""

    def setUp(self) -> None:
        super().setUp()
        (self.a,) = self.mesh(1)

    def test_C22_unknown_url(self) -> None:
        """Unknown paths are 404 in JSON, and name the ones that there are."""
        for path in ("/v2", "/v1", "/v1/", "/v1/modelss", "/../etc", "/v1/chat/completions/x"):
            error = self.assert_refused(self.get(path), 404, "unknown_url")
            self.assertIn("/v1/chat/completions", str(error["message"]))

    def test_C22_wrong_method(self) -> None:
        """A wrong method is 405 with the right ones, for each route of the API."""
        for api in Api:
            answer = self.get(api.value)
            code = answer.json["error"]["code"]
            self.assertEqual((answer.status, code), (405, "method_not_allowed"), api)
            self.assertEqual(answer.headers["allow"], "POST")
        answer = self.post("/v1/models", {})
        self.assertEqual(answer.headers["allow"], "GET, HEAD")

    def test_C22_under_messages(self) -> None:
        """Under `/v1/messages` the error has Anthropic's shape."""
        answer = self.get("/v1/messages")
        self.assertEqual((answer.status, answer.json["type"]), (405, "error"))

    def test_every_api(self) -> None:
        """Each route of the API reaches its backend at the same path."""
        for api in Api:
            self.ask(api.value)
            self.assertEqual(self.a.work[-1].request.path, api.value)

    def test_C9_no_json(self) -> None:
        """A body that is no JSON object is 400, and nothing of its text comes back."""
        for body in (b"", b"secret", b"[]", b'"secret"', b'{"secret": }', b'{"model":"coder"'):
            error = self.assert_refused(self.post(CHAT, body), 400, "invalid_json")
            self.assertNotIn("secret", str(error["message"]))

    def test_L17_long_bodies_are_read_beside_the_reactor(self) -> None:
        """A body of a MiB is read in a thread, a shorter one at once, which costs less."""
        for size, threaded in ((2**20 - 200, 0), (2**20, 1)):
            self.ask(CHAT, messages=[{"role": "user", "content": "x" * size}])
            self.assertEqual(self.net.threaded, threaded)
        self.assertEqual(len(self.a.work), 2)

    def test_C10_deep(self) -> None:
        """Nesting without end is 400."""
        body = b'{"model":"coder","x":' + b"[" * 100_000
        self.assert_refused(self.post(CHAT, body), 400, "invalid_json")

    def test_C12_encoding(self) -> None:
        """Other encodings, and half a surrogate pair, are 400."""
        for body in (b'{"model":"\xff"}', '{"model":"coder"}'.encode("utf-16"), b'{"x":"\\ud800"}'):
            self.assert_refused(self.post(CHAT, body), 400, "invalid_encoding")

    def test_C14_fields_of_the_servers(self) -> None:
        """Fields that reach into a server are 400 and named."""
        for name, value in (("n_discard", -1), ("lora", []), ("id_slot", 0)):
            error = self.assert_refused(
                self.ask(CHAT, raw.NONE, **{name: value}).answer, 400, "unsupported_parameter"
            )
            self.assertEqual(error["param"], name)
        self.assertEqual(self.a.work, [])

    def test_types(self) -> None:
        """A model that is no string, and a stream that is no boolean, are named."""
        for name, value in (("model", 7), ("stream", "yes")):
            error = self.assert_refused(
                self.ask(CHAT, raw.NONE, **{name: value}).answer, 400, "invalid_json"
            )
            self.assertEqual(error["param"], name)

    def test_packed(self) -> None:
        """A body that says it is packed is not looked at; one that is as it is, is served."""
        for packing in ("gzip", "br", "identity, gzip"):
            answer = self.ask(CHAT, {"Content-Encoding": packing}).answer
            self.assert_refused(answer, 415, "unsupported_media_type")
        self.assertEqual(self.a.work, [])
        self.ask(CHAT, {"Content-Encoding": "identity"})
        self.assertEqual(len(self.a.work), 1)

    def test_C15_request_id(self) -> None:
        """A sane id of the client's is used, any other is replaced."""
        for given, kept in (("abc-1.2_3", True), ("a b", False), ("x" * 65, False)):
            answer = self.get("/health", **{"X-Request-Id": given})
            self.assertEqual(answer.headers["x-request-id"] == given, kept)

    def test_L15_bug(self) -> None:
        """A bug is 500 with the request's id, and its traceback is in the log alone."""

        def break_down(*_: object) -> None:
            raise ZeroDivisionError("the secret reason")

        self.patch(asking, "read", break_down)
        client = self.ask()
        error = self.assert_refused(client.answer, 500, "internal_error")
        self.assertIn(client.answer.headers["x-request-id"], str(error["message"]))
        self.assertNotIn("secret", str(error["message"]))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.lines()[-1]["http.response.status_code"], 500)


class StoryTests(GatewayCase):
    """What is told of a choice, before and after it."""

    def setUp(self) -> None:
        super().setUp()
        self.a, self.b = self.mesh(2)

    def test_explain(self) -> None:
        """The choice that a request would get, with its candidates; nothing is sent."""
        self.b.mood = "refuse"
        self.net.spend(6)
        told = self.post("/v1/roles/coder/explain", {"messages": []}).json
        self.assertEqual((told["role"], told["policy"]), ("coder", "first"))
        self.assertEqual((told["choice"], told["route"]), ("static/coder-1", "first"))
        self.assertIn("static/coder-1", [each["backend"] for each in told["candidates"]])
        self.assertEqual(self.a.work, [])

    def test_explain_nobody(self) -> None:
        """Where nobody can answer, that is the answer, with the reason."""
        for server in (self.a, self.b):
            server.mood = "refuse"
        self.net.spend(6)
        told = self.post("/v1/roles/coder/explain", {}).json
        self.assertIsNone(told["choice"])
        self.assertIn("role_unavailable", told["refusal"])

    def test_explain_waits(self) -> None:
        """Where it would wait, that is said."""
        GatewayCase.setUp(self)
        self.start(role(self.net.server(), slots=1))
        self.ask()
        told = self.post("/v1/roles/coder/explain", {}).json
        self.assertEqual((told["choice"], told["waits"]), (None, "every slot is busy"))

    def test_explain_unknown(self) -> None:
        """An unknown role is 404."""
        self.assert_refused(self.post("/v1/roles/codr/explain", {}), 404, "model_not_found")

    def test_record(self) -> None:
        """A request is found by its id while it runs and after, without any of its text."""
        client = self.ask(headers={"X-Request-Id": "mine"}, messages=[{"content": "secret"}])
        told = self.get("/v1/requests/mine")
        self.assertEqual(told.json["end"], "under way")
        self.a.work[0].json(200, whole("secret"))
        self.turn()
        told = self.get("/v1/requests/mine")
        self.assertEqual((told.json["status"], told.json["end"]), (200, "complete"))
        self.assertEqual(told.json["attempts"][0]["backend"], "static/coder-1")
        self.assertNotIn(b"secret", told.data)
        self.assertEqual(client.answer.status, 200)

    def test_record_last(self) -> None:
        """The latest one that is over has a name of its own."""
        self.ask(headers={"X-Request-Id": "one"})
        self.a.work[0].json(200, whole("hi"))
        self.turn()
        self.assertEqual(self.get("/v1/requests/last").json["id"], "one")

    def test_record_unknown(self) -> None:
        """What was never asked, or is forgotten, is 404."""
        self.assert_refused(self.get("/v1/requests/no"), 404, "unknown_url")

    def test_record_of_a_refusal(self) -> None:
        """A refused request is remembered with its code."""
        self.ask(model="codr", headers={"X-Request-Id": "no"})
        told = self.get("/v1/requests/no").json
        self.assertEqual((told["status"], told["code"]), (404, "model_not_found"))


class KeysTests(GatewayCase):
    """Where there are keys, each opens its own roles and nothing else."""

    def setUp(self) -> None:
        super().setUp()
        self.records: list[KeyRecord] = []
        self.coder = self.key(1, roles=("coder",))
        self.all = self.key(2, roles="*")
        self.none = self.key(3, roles=())
        self.looker = self.key(4, roles="*", scopes=(Scope.MODELS,))
        path = Path(self.mktemp())
        write_private(path, key_file_text(self.records))
        self.a, self.b = self.net.server(), self.net.server()
        planner = role(self.b, name="planner")
        self.start(role(self.a, fallback=("planner",)), planner, keys=path, nodes=NodeRules())

    def key(self, number: int, **more: Any) -> dict[str, str]:
        text, record = mint(KeyKind.CLIENT, bytes([number]) * ENTROPY, 1.0)
        self.records.append(evolve(record, **more))
        return {"Authorization": f"Bearer {text}"}

    def chat(self, model: str, key: dict[str, str]) -> raw.Answer:
        return self.ask(model=model, headers={**key, "X-Request-Id": "same"}).answer

    def test_C25_no_key(self) -> None:
        """Without a key, or with a wrong one, nothing but life itself is told."""
        for headers in (raw.NONE, {"Authorization": "Bearer rmk_wrong"}):
            for answer in (self.ask(headers=headers).answer, self.get("/v1/models", **headers)):
                self.assert_refused(answer, 401, "invalid_api_key")
                self.assertEqual(answer.headers["www-authenticate"], "Bearer")
        self.assertEqual(self.get("/health").status, 200)
        self.assertEqual(self.a.work, [])

    def test_C25_before_anything_is_read(self) -> None:
        """Who has no key is not told what is wrong with the body either."""
        self.assert_refused(self.post(CHAT, b"no json"), 401, "invalid_api_key")

    def test_C23_roles(self) -> None:
        """A role that a key may not use looks just as one that does not exist."""
        self.chat("coder", self.coder)
        self.assertEqual(len(self.a.work), 1)
        forbidden, unknown = self.chat("planner", self.coder), self.chat("plannex", self.coder)
        self.assert_refused(forbidden, 404, "model_not_found")
        self.assertEqual(
            forbidden.body.replace(b"planner", b"plannex"), unknown.body.replace(b"planner", b"-")
        )
        names = [set(answer.headers) for answer in (forbidden, unknown)]
        self.assertEqual(*names)

    def test_C23_models(self) -> None:
        """So it is in the list, and where one is looked up or explained."""
        ids = [model["id"] for model in self.get("/v1/models", **self.coder).json["data"]]
        self.assertEqual(ids, ["coder"])
        answer = self.get("/v1/models/planner", **self.coder)
        self.assert_refused(answer, 404, "model_not_found")
        answer = self.post("/v1/roles/planner/explain", {}, **self.coder)
        self.assert_refused(answer, 404, "model_not_found")
        self.assertEqual(self.get("/v1/models", **self.none).json["data"], [])

    def test_fallback_is_the_roles_own(self) -> None:
        """A key for a role is good for what stands in for it."""
        self.a.mood = "refuse"
        self.net.spend(6)
        self.chat("coder", self.coder)
        self.assertEqual(len(self.b.work), 1)

    def test_scopes(self) -> None:
        """A key that may only look cannot chat."""
        self.assertEqual(self.get("/v1/models", **self.looker).status, 200)
        self.assert_refused(self.chat("coder", self.looker), 403, "scope_missing")

    def test_records_are_ones_own(self) -> None:
        """A request's record is another key's to see as little as one that never was."""
        self.ask(headers={**self.all, "X-Request-Id": "mine"})
        path = "/v1/requests/mine"
        self.assertEqual(self.get(path, **self.all).status, 200)
        self.assert_refused(self.get(path, **self.coder), 404, "unknown_url")
        self.assert_refused(self.get(path), 401, "invalid_api_key")

    def test_key_in_the_log(self) -> None:
        """The log names the key by its id, never by its text."""
        self.chat("planner", self.coder)
        line = self.lines()[-1]
        self.assertEqual(line["user.id"], self.records[0].id)
        self.assertNotIn(self.coder["Authorization"].split()[1], repr(self.logged))
