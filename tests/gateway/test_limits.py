"""The promises of `rolemesh.gateway.limits` and of what is counted, over a whole gateway: C26."""

from itertools import count
from pathlib import Path
from typing import Any

from attrs import evolve

from rolemesh.config.gateway import GatewaySettings
from rolemesh.config.keyfile import key_file_text
from rolemesh.config.listeners import Listener, Serves
from rolemesh.config.private import write_private
from rolemesh.core.keys import ENTROPY, KeyKind, KeyRecord, mint
from rolemesh.core.model import QueueLimits
from rolemesh.gateway import asking, usage
from rolemesh.gateway.key_store import LOOK_EVERY, KeyStore
from rolemesh.gateway.store.interface import Usage
from rolemesh.gateway.store.memory import MemoryStore
from rolemesh.gateway.usage import SAVE_EVERY
from rolemesh.gateway.wiring import build
from tests.doubles import raw
from tests.gateway.memory import CHAT, HELLO, Client, GatewayCase, Net, role, whole

SPENT = {"usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}}


class LimitsCase(GatewayCase):
    """A gateway with a role `coder` of one slot, and one `planner` that stands in for it."""

    def setUp(self) -> None:
        super().setUp()
        self.records: list[KeyRecord] = []
        self.store = MemoryStore()
        self.file = Path(self.mktemp())
        self.a, self.b = self.net.server(), self.net.server()

    def key(self, kind: KeyKind = KeyKind.CLIENT, **more: Any) -> dict[str, str]:
        """The headers of a client with a key of its own."""
        text, record = mint(kind, bytes([len(self.records)]) * ENTROPY, 1.0)
        self.records.append(evolve(record, **{"name": "ci", "roles": "*", **more}))
        return {"Authorization": f"Bearer {text}"}

    def begin(self, listener: Listener | None = None, **more: Any) -> None:
        """Start the gateway, once the keys are made."""
        write_private(self.file, key_file_text(self.records))
        coder = role(self.a, slots=1, fallback=("planner",), aliases=("gpt-4o",), **more)
        planner = role(self.b, name="planner", slots=1, **more)
        roles = {each.name: each for each in (coder, planner)}
        settings = GatewaySettings(roles=roles, keys=self.file, drain=1.0)
        listeners = [listener or Listener(self.listen)]
        self.life, _ = build(self.net, settings, Path("models.yaml"), listeners, self.store)
        self.life.startService()
        self.net.spend(2)

    def chat(self, key: dict[str, str], **more: Any) -> Client:
        return self.ask(headers=key, **more)

    def served(self, key: dict[str, str], **more: Any) -> raw.Answer:
        """A chat that is answered at once."""
        client = self.chat(key, **more)
        self.a.work[-1].json(200, whole("hi", **SPENT))
        self.turn()
        self.assertEqual(client.answer.status, 200)
        return client.answer

    def assert_limited(self, answer: raw.Answer) -> None:
        self.assert_refused(answer, 429, "rate_limit_exceeded")

    def used(self, key: dict[str, str]) -> list[tuple[Any, ...]]:
        rows = self.get("/v1/usage", **key).json["data"]
        names = ("role", "requests", "prompt_tokens", "completion_tokens")
        return [tuple(row[name] for name in names) for row in rows]


class PaceTests(LimitsCase):
    """Requests a minute."""

    def test_C26_rate(self) -> None:
        """What exceeds a key's rate is 429 with hints, costs no backend anything, and is let in
        when the hint said so."""
        key = self.key(rpm=2)
        self.begin()
        for left in ("1", "0"):
            self.assertEqual(self.served(key).headers["x-ratelimit-remaining-requests"], left)
        answer = self.chat(key).answer
        self.assert_limited(answer)
        self.assertTrue(answer.data.startswith(b"HTTP/1.1 429 Too Many Requests\r\n"))
        self.assertEqual(answer.headers["x-should-retry"], "true")
        self.assertEqual(answer.headers["x-ratelimit-limit-requests"], "2")
        self.assertIn("'ci' may send 2 requests a minute", answer.json["error"]["message"])
        wait = int(answer.headers["retry-after-ms"]) / 1000
        self.assertTrue(29 < wait <= 30)
        self.assertEqual(len(self.a.work), 2)
        self.net.spend(wait)
        self.served(key)

    def test_C26_anthropic(self) -> None:
        """An Anthropic client is told in its own shape."""
        key = self.key(rpm=1)
        self.begin()
        self.served(key)
        answer = self.ask("/v1/messages", key, max_tokens=1).answer
        self.assertEqual((answer.status, answer.json["type"]), (429, "error"))
        self.assertEqual(answer.json["error"]["type"], "rate_limit_error")

    def test_each_key_its_own(self) -> None:
        """One key's limit is none of another's, and a key without limits is told of none."""
        limited, free = self.key(rpm=1), self.key()
        self.begin()
        self.served(limited)
        self.assert_limited(self.chat(limited).answer)
        for _ in range(3):
            names = self.served(free).headers
            self.assertFalse([name for name in names if name.startswith("x-ratelimit")])

    def test_what_costs_nothing_is_not_limited(self) -> None:
        """Lists and usage are not counted."""
        key = self.key(rpm=1)
        self.begin()
        for path in ("/v1/models", "/v1/usage") * 3:
            self.assertEqual(self.get(path, **key).status, 200)
        self.served(key)

    def test_changed_while_it_runs(self) -> None:
        """A limit that is changed in the file holds within a second."""
        key = self.key(rpm=1)
        self.begin()
        self.served(key)
        self.assert_limited(self.chat(key).answer)
        write_private(self.file, key_file_text([evolve(self.records[0], rpm=None)]))
        self.net.spend(LOOK_EVERY)
        self.served(key)


class ConcurrencyTests(LimitsCase):
    """Requests under way: every one of them is over once, however it ends."""

    def setUp(self) -> None:
        super().setUp()
        self.only = self.key(concurrency=1)

    def assert_free(self) -> None:
        """One more is let in, and no second beside it."""
        self.turn()
        first = self.chat(self.only)
        self.assertFalse(first.answered, first.answer.data)
        self.assert_limited(self.chat(self.only).answer)
        first.leave()
        self.turn()
        self.served(self.only)

    def test_C26_concurrency(self) -> None:
        """A second request at once is 429 with a hint, and goes when the first is over."""
        self.begin()
        first = self.chat(self.only)
        answer = self.chat(self.only).answer
        self.assert_limited(answer)
        self.assertEqual(answer.headers["retry-after-ms"], "1000")
        self.assertIn("'ci' may have 1 request under way", answer.json["error"]["message"])
        self.a.work[-1].json(200, whole("hi"))
        self.turn()
        self.assertEqual(first.answer.status, 200)
        self.assert_free()

    def test_client_gone(self) -> None:
        """Who leaves before an answer, or in the middle of one, gives its place back."""
        self.begin()
        self.chat(self.only).leave()
        self.assert_free()
        client = self.chat(self.only, stream=True)
        self.a.work[-1].head()
        self.a.work[-1].text("a", "b")
        self.turn()
        client.leave()
        self.assert_free()

    def test_left_the_queue(self) -> None:
        """So does who leaves while waiting for a slot."""
        other = self.key()
        self.begin()
        busy = self.chat(other, model="planner")
        waiting = self.chat(self.only, model="planner")
        self.assert_limited(self.chat(self.only).answer)
        waiting.leave()
        self.assert_free()
        busy.leave()

    def test_refused(self) -> None:
        """So does one that is refused: for its body, its role, or a full queue."""
        other = self.key()
        self.begin(queue=QueueLimits(max=0))
        for model, code in (("codr", "model_not_found"), (None, "missing_required_parameter")):
            answer = self.chat(self.only, model=model).answer
            self.assertEqual(answer.json["error"]["code"], code)
        busy = [self.chat(other), self.chat(other, model="planner")]
        answer = self.chat(self.only).answer
        self.assertEqual(answer.json["error"]["code"], "role_saturated")
        for client in busy:
            client.leave()
        self.assert_free()

    def test_backend_dies(self) -> None:
        """So does one whose stream breaks, and one that no backend could answer."""
        self.begin()
        client = self.chat(self.only, stream=True)
        self.a.work[-1].head()
        self.a.work[-1].text("a")
        self.turn()
        self.a.work[-1].die()
        self.turn()
        self.assert_broken_off(client.answer, "upstream_disconnected")
        self.net.spend(10)
        self.assert_free()

    def test_a_bug(self) -> None:
        """So does one that fails for a reason that nobody thought of."""
        self.begin()
        broken = self.patch(asking, "chain_of", lambda *_: 1 / 0)
        self.assertEqual(self.chat(self.only).answer.status, 500)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        broken.restore()
        self.assert_free()

    def test_stopping(self) -> None:
        """One that is cut off by the gateway's stop is over as well."""
        self.begin()
        self.chat(self.only)
        self.life.stopService()
        self.net.spend(10)
        self.assertEqual(self.allowance().in_flight, 0)

    def allowance(self) -> Any:
        return self.life._clients._limits._allowances[self.records[0].id]


class QuotaTests(LimitsCase):
    """Tokens in a day."""

    def test_C26_quota(self) -> None:
        """Once a key has used its day it is 429 `quota_exceeded`, across a restart as well."""
        key = self.key(tokens_per_day=30)
        self.begin()
        self.assertEqual(self.served(key).headers["x-ratelimit-remaining-tokens"], "30")
        self.assertEqual(self.served(key).headers["x-ratelimit-remaining-tokens"], "15")
        answer = self.chat(key).answer
        self.assert_refused(answer, 429, "quota_exceeded")
        self.assertEqual(answer.headers["x-ratelimit-remaining-tokens"], "0")
        self.assertLessEqual(int(answer.headers.get("retry-after-ms", "0")), 60_000)
        self.net.spend(SAVE_EVERY)
        servers = self.net.servers
        self.net = Net()
        self.net.servers = servers
        for server in servers.values():
            server.net = self.net
        self.begin()
        self.assert_refused(self.chat(key).answer, 429, "quota_exceeded")

    def test_who_leaves_has_used(self) -> None:
        """A client that leaves a stream before its end has used what it was given."""
        key = self.key()
        self.begin()
        client = self.chat(key, stream=True)
        self.a.work[-1].head()
        self.a.work[-1].text(*"abcdefgh")
        self.turn()
        client.leave()
        self.turn()
        [(name, requests, prompt, completion)] = self.used(key)
        self.assertEqual((name, requests, completion), ("coder", 1, 8))
        self.assertGreater(prompt, 0)


class UsageTests(LimitsCase):
    """`GET /v1/usage`."""

    def test_the_role_asked(self) -> None:
        """An alias is billed to its role, and a fallback's answer to the role that was asked."""
        key = self.key()
        self.begin()
        self.served(key, model="gpt-4o")
        self.a.mood = "refuse"
        self.net.spend(6)
        client = self.chat(key)
        self.b.work[-1].json(200, whole("hi", **SPENT))
        self.turn()
        self.assertEqual(client.answer.headers["x-rolemesh-node"], "static")
        self.assertEqual(client.answer.headers["x-rolemesh-backend"], "planner")
        self.assertEqual(self.used(key), [("coder", 2, 20, 10)])

    def test_whose(self) -> None:
        """A client sees what its own key used; an operator sees all, with the keys' names."""
        one, other = self.key(name="one"), self.key(name="other")
        admin = self.key(KeyKind.ADMIN, name="me")
        node = self.key(KeyKind.NODE)
        self.begin()
        self.served(one)
        self.served(one)
        self.assertEqual(self.used(one), [("coder", 2, 20, 10)])
        self.assertEqual(self.used(other), [])
        (row,) = self.get("/v1/usage?days=1", **admin).json["data"]
        self.assertEqual((row["key"], row["name"]), (self.records[0].id, "one"))
        for wrong in (node, {}, {"Authorization": "Bearer rmk_x"}):
            self.assert_refused(self.get("/v1/usage", **wrong), 401, "invalid_api_key")

    def test_where(self) -> None:
        """An admin key tells nothing where only clients are served, nor a client's where only
        operators are; what serves neither has no such route."""
        client, admin = self.key(), self.key(KeyKind.ADMIN)
        for serves, statuses in (
            (Serves.PUBLIC, (200, 401)), (Serves.ADMIN, (401, 200)), (Serves.NODES, (404, 404)),
        ):  # fmt: skip
            self.net, servers = Net(), self.net.servers
            self.net.servers = servers
            self.begin(listener=Listener(self.listen, serves=frozenset({serves})))
            found = [self.get("/v1/usage", **key).status for key in (client, admin)]
            self.assertEqual(tuple(found), statuses, serves)

    def test_days(self) -> None:
        """As many days as are asked for, within the month that is remembered."""
        key = self.key()
        self.store.used[("2024-01-01", "k", "r")] = Usage("2024-01-01", "k", "r", 1)
        self.begin()
        self.assertEqual(self.get("/v1/usage?days=31", **key).json["days"], 31)
        for days in ("0", "32", "x", "-1", "9" * 400):
            refused = self.get(f"/v1/usage?days={days}", **key)
            self.assert_refused(refused, 400, "bad_request")

    def test_refused_is_not_used(self) -> None:
        """What no role was found for, or a limit refused, is not counted."""
        key = self.key(rpm=2)
        self.begin()
        self.chat(key, model="codr")
        self.served(key)
        self.assert_limited(self.chat(key).answer)
        self.assertEqual(self.used(key), [("coder", 1, 10, 5)])

    def test_saved_at_the_end(self) -> None:
        """What was used just before the gateway stops is in the store when it has stopped."""
        self.patch(usage, "SAVE_EVERY", 1000.0)
        key = self.key()
        self.begin()
        self.served(key)
        self.assertEqual(self.store.used, {})
        self.life.stopService()
        self.net.spend(10)
        [row] = self.store.used.values()
        self.assertEqual((row.requests, row.prompt_tokens), (1, 10))

    def test_without_keys(self) -> None:
        """A gateway without keys counts for nobody in particular, and tells everybody."""
        (server,) = self.mesh(1)
        self.ask()
        server.work[-1].json(200, whole("hi", **SPENT))
        self.turn()
        (row,) = self.get("/v1/usage").json["data"]
        self.assertEqual((row["key"], row["name"], row["prompt_tokens"]), ("", "", 10))


class ScreenTests(LimitsCase):
    """A client's key is checked once, and on every way in."""

    def test_checked_once(self) -> None:
        """What was checked before the body is not checked again behind it."""
        key = self.key()
        self.begin()
        ring, looks = KeyStore.ring, count()
        self.patch(KeyStore, "ring", lambda store: (next(looks), ring(store))[1])
        self.served(key)
        self.assertEqual(next(looks), 1)

    def test_C25_every_route_asks(self) -> None:
        """No client's route opens without a key, whether it is screened or not."""
        self.key()
        self.begin()
        app = self.life._clients.app
        open_to_all = {"/", "/health", "/ready"}
        for rule in app.url_map.iter_rules():
            if rule.rule in open_to_all:
                continue
            path = rule.rule.replace("<path:name>", "x").replace("<id>", "x").replace("<role>", "x")
            for method in {"GET", "POST"} & (rule.methods or set()):
                self.turn(1.0)  # so that no failure is one too many
                body = {"model": "coder", "messages": HELLO} if method == "POST" else None
                answer = self.client().send(method, path, body).answer
                self.assertEqual(answer.status, 401, path)

    def test_C25_an_odd_path(self) -> None:
        """A path that the screen does not know, and the router takes all the same, is checked."""
        self.key()
        self.begin()
        for path in (CHAT.replace("c", "%63"), CHAT + "/", "/" + CHAT, CHAT + "?x=1", CHAT + ";x"):
            answer = self.post(path, {"model": "coder", "messages": HELLO})
            self.assertIn(answer.data[:12], (b"HTTP/1.1 401", b"HTTP/1.1 404"), path)
        self.assertEqual(self.a.work, [])
