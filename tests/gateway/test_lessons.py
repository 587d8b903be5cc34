"""What went wrong in public elsewhere, each by the id under which it was told."""

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.address import IPv4Address
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.config.gateway import NodeRules
from rolemesh.config.keyfile import key_file_text, read_key_file
from rolemesh.config.private import write_private
from rolemesh.core.addresses import read_network
from rolemesh.core.invites import JoinRequest, new_invite, token_hash
from rolemesh.core.keys import ENTROPY, KeyKind, KeyRecord, KeyRing, Scope, mint
from rolemesh.core.model import Policy, Role, Target
from rolemesh.core.report import encode
from rolemesh.gateway.edge_request import EdgeRequest
from rolemesh.gateway.key_store import KeyStore
from rolemesh.gateway.store.memory import MemoryStore
from rolemesh.gateway.tap import Options
from rolemesh.logs import json_line
from tests.doubles import raw
from tests.gateway.memory import CHAT, HELLO, GatewayCase, role

REGISTER, JOIN = "/v1/nodes/register", "/v1/nodes/join"
NEAR = ("127.0.0.1", "::1", "localhost")


class LessonCase(GatewayCase):
    """A gateway with keys, tokens and the role `coder`, which one server with a key serves."""

    def setUp(self) -> None:
        super().setUp()
        self.records: dict[KeyKind, list[KeyRecord]] = {KeyKind.CLIENT: [], KeyKind.NODE: []}
        self.client_key = self.minted(KeyKind.CLIENT, 1, roles="*")
        self.admin_key = self.minted(KeyKind.ADMIN, 2)
        self.token = self.minted(KeyKind.NODE, 3, node="box2", roles=("writer",))
        self.a, self.b = self.net.server(), self.net.server()

    def minted(self, kind: KeyKind, number: int, **more: Any) -> str:
        text, record = mint(kind, bytes([number]) * ENTROPY, 1.0)
        file = KeyKind.NODE if kind is KeyKind.NODE else KeyKind.CLIENT
        self.records[file].append(evolve(record, **more))
        return text

    def begin(self, **more: Any) -> None:
        """Start it, with what was minted until now."""
        self.keys, self.tokens = Path(self.mktemp()), Path(self.mktemp())
        write_private(self.keys, key_file_text(self.records[KeyKind.CLIENT]))
        write_private(self.tokens, key_file_text(self.records[KeyKind.NODE]))
        own = Target(url=self.a.url, key="sk-of-the-backend")
        coder = Role("coder", use=(own,), policy=Policy.FIRST)
        self.start(coder, keys=self.keys, nodes=NodeRules(tokens=self.tokens), **more)

    def chat(self, key: str | None = None, **more: Any) -> raw.Answer:
        return self.ask(headers=bearer(key or self.client_key), **more).answer

    def registered(self, **more: Any) -> raw.Answer:
        backend = {"id": "gpu0", "base_url": self.b.url, "roles": ["writer"], **more}
        told = {"node": "box2", "instance": "one", "backends": [backend]}
        return self.post(REGISTER, told, **bearer(self.token))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


class BodyTests(LessonCase):
    """What a client writes into a request moves no request."""

    def test_CVE_2024_6587_a_body_never_chooses_a_server(self) -> None:
        """Neither a body's fields nor headers name a server: the role's own one is asked, with its
        own key, and nobody else."""
        self.begin()
        elsewhere = {"api_base": self.b.url, "base_url": self.b.url, "url": self.b.url}
        headers = {f"X-{name.replace('_', '-')}": self.b.url for name in elsewhere}
        body = {"model": "coder", "messages": HELLO, "api_key": "sk-mine", **elsewhere}
        self.post(CHAT, body, **headers, **bearer(self.client_key))
        self.assertEqual((len(self.a.work), self.b.work, self.b.checks), (1, [], []))
        got = self.a.work[0].request
        self.assertEqual(got.header("authorization"), "Bearer sk-of-the-backend")
        self.assertNotIn(self.client_key, str(got))

    def test_CVE_2024_6587_a_backend_s_key_goes_to_its_own_address_alone(self) -> None:
        """A node that moves its server and tells no key has none sent to the new place."""
        self.begin()
        self.registered(key="sk-first")
        self.turn(3)
        other = self.net.server()
        self.registered(base_url=other.url)
        self.net.spend(3)
        self.chat(model="writer")
        self.assertEqual([each.request.header("authorization") for each in other.work], [None])
        self.assertEqual(self.b.work, [])

    def test_llama_cpp_CVE_2026_21869_no_field_reaches_into_a_server(self) -> None:
        """Fields that crash a llama-server or choose inside it are refused, in each API."""
        self.begin()
        for path in (CHAT, "/v1/completions", "/v1/messages", "/infill", "/v1/responses"):
            for field, value in (("n_discard", -1), ("lora", [{"id": 0}]), ("id_slot", 1)):
                body = {"model": "coder", "messages": HELLO, field: value}
                answer = self.post(path, body, **bearer(self.client_key))
                self.assertEqual((answer.status, path), (400, path))
                self.assertEqual(answer.json["error"]["code"], "unsupported_parameter")
        self.assertEqual(self.a.work, [])

    def test_Paddler_96_GPUStack_1020_llama_swap_138_lilbee_435_nothing_is_left_over(self) -> None:
        """Who leaves frees the server: its connection is closed at once, streaming or not."""
        self.begin()
        for stream in (True, False):
            client = self.ask(headers=bearer(self.client_key), stream=stream)
            self.assertFalse(self.a.work[-1].left)
            client.leave()
            self.assertTrue(self.a.work[-1].left)


class KeyTests(LessonCase):
    """What others let pass for a key."""

    def test_CVE_2026_42208_a_header_reaches_no_database(self) -> None:
        """A key that is SQL is a wrong key like any other: the same answer, and no store asked."""
        self.begin()
        asked: list[str] = []
        for name in ("write", "usage", "add_usage", "prune_usage"):
            self.patch(MemoryStore, name, lambda *_, name=name: asked.append(name))
        usual = self.get("/v1/models", **bearer("rmk_wrong")).body
        for text in ("' OR 1=1 --", "rmk_aaaaaaaa_'; DROP TABLE keys; --", "\\x00", "%s %(id)s"):
            for headers in (bearer(text), {"x-api-key": text}):
                self.turn(1)
                answer = self.get("/v1/models", **headers)
                self.assertEqual((answer.status, answer.body), (401, usual))
        self.assertEqual(asked, [])

    def test_CVE_2026_35030_all_of_a_key_counts(self) -> None:
        """A key that differs from a good one in any one place is wrong; so is a part of one."""
        text, record = mint(KeyKind.CLIENT, b"k" * ENTROPY, 1.0)
        ring = KeyRing([record])
        self.assertIs(ring.check(text, 2.0), record)
        for place in range(len(text)):
            for other in "aZ_":
                changed = text[:place] + other + text[place + 1 :]
                found = ring.check(changed, 2.0)
                self.assertIs(found, record if changed == text else None, changed)
        for cut in range(len(text)):
            self.assertIsNone(ring.check(text[:cut], 2.0))
            self.assertIsNone(ring.check(text + text[: cut + 1], 2.0))

    def test_CVE_2026_47101_nobody_chooses_its_scopes(self) -> None:
        """A box that registers or joins gets what its token or invite grants, whatever it asks."""
        code, invite = new_invite(b"i" * ENTROPY, "box9", ["writer"], time.time(), 600.0)
        self.records[KeyKind.NODE].append(invite)
        self.begin()
        wanted = {"scopes": ["admin", "chat"], "roles": "*", "node": "box2"}
        own = self.minted(KeyKind.NODE, 9)
        hashed = token_hash(own)
        assert hashed is not None
        asked = json.loads(encode(JoinRequest(code, hashed)))
        joined = self.post(JOIN, {**asked, **wanted, "token": {**asked["token"], **wanted}})
        self.assertEqual(joined.json, {"node": "box9", "roles": ["writer"]})
        [found] = [each for each in read_key_file(self.tokens) if each.id == hashed.id]
        granted = (found.node, found.roles, found.scopes)
        self.assertEqual(granted, ("box9", ("writer",), (Scope.REGISTER,)))
        told = self.registered(roles=["writer", "coder"], scopes=["admin"]).json
        self.assertEqual([each["code"] for each in told["refused"]], ["role_not_allowed"])
        answer = self.post("/v1/nodes/box2/drain", {}, **bearer(own))
        self.assert_refused(answer, 401, "invalid_api_key")

    def test_CVE_2026_47101_a_scope_is_worth_what_its_kind_is(self) -> None:
        """A client's or a node's key with another kind's scope in its record opens no more."""
        everything = tuple(Scope)
        client = self.minted(KeyKind.CLIENT, 5, roles="*", scopes=everything)
        node = self.minted(KeyKind.NODE, 6, node="box2", roles="*", scopes=everything)
        self.begin()
        self.registered()
        for key in (client, node):
            self.turn(1)
            answer = self.post("/v1/nodes/box2/drain", {}, **bearer(key))
            self.assert_refused(answer, 401, "invalid_api_key")
        self.assert_refused(self.chat(node), 401, "invalid_api_key")
        told = {"node": "box2", "instance": "two", "backends": []}
        self.assert_refused(self.post(REGISTER, told, **bearer(client)), 401, "invalid_api_key")

    def test_LiteLLM_22188_24902_no_key_in_a_line(self) -> None:
        """Keys in headers, in a query and in a body, good and wrong, stand in no line of the log;
        one in a query opens nothing."""
        self.begin()
        wrong = "rmk_" + "q" * 8 + "_" + "w" * 43
        for key in (self.client_key, self.admin_key, self.token, wrong):
            self.assertEqual(self.get(f"/v1/models?key={key}&api_key={key}").status, 401)
            self.post(CHAT, {"model": key, "api_key": key}, **bearer(self.client_key))
            self.post(CHAT, f'{{"model": "{key}'.encode(), **bearer(key))
            self.get("/v1/models", **{"X-Request-Id": key, "x-api-key": key})
            self.client().line.say(f"GET /{key} HTTP/1.1\r\nAuthorization: {key}\r\n\r\n".encode())
            self.turn(1)
        lines = b"".join(map(json_line, self.logged)).decode()
        for key in (self.client_key, self.admin_key, self.token, wrong):
            self.assertNotIn(key[13:], lines)


class DoorTests(LessonCase):
    """What others left open."""

    def test_CVE_2024_28224_rebinding(self) -> None:
        """Without keys a page whose name was made to lead here gets nothing done: neither reads,
        nor asks, nor registers."""
        self.start(role(self.a))
        for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "2130706433"):
            self.assertEqual(self.get("/v1/models", Host=host).status, 403)
            told = {"node": "box2", "base_url": self.b.url, "roles": ["coder"]}
            self.assertEqual(self.post(REGISTER, told, Host=host).status, 403)
            self.assertEqual(self.ask(headers={"Host": host}).answer.status, 403)
        self.assertEqual((self.a.work, self.b.checks), ([], []))

    def test_CVE_2026_7482_CVE_2024_37032_GO_2025_4251_no_management_without_a_key(self) -> None:
        """No verb, registration, list or record is there for who has no key, nor for a client what
        is an operator's or a node's."""
        self.begin()
        self.registered()
        managing = [("GET", "/v1/nodes/box2"), ("GET", "/v1/nodes/box2/commands?instance=one")]
        managing += [("DELETE", "/v1/nodes/box2"), ("POST", "/v1/nodes/box2/commands/c1")]
        managing += [("POST", f"/v1/nodes/box2/{verb}") for verb in ("drain", "resume")]
        managing += [("POST", f"/v1/backends/box2/gpu0/{verb}") for verb in ("restart", "drain")]
        managing += [("GET", "/v1/backends/box2/gpu0/logs"), ("POST", REGISTER)]
        told: dict[str, Any] = {"node": "box2", "instance": "two", "backends": []}
        for headers in (raw.NONE, bearer(self.client_key)):
            for method, path in managing:
                self.turn(1)
                body = None if method == "GET" else told if path == REGISTER else {}
                answer = self.client().send(method, path, body, headers).answer
                self.assertEqual(answer.status, 401, path)
        for path in ("/v1/nodes", "/v1/requests/last", "/v1/usage", "/v1/models"):
            self.assertEqual(self.get(path).status, 401, path)
        listed = self.get("/v1/nodes", **bearer(self.client_key)).json["data"]
        self.assertEqual([each["node"] for each in listed], ["box2"])

    def test_CVE_2024_37032_names_are_no_paths(self) -> None:
        """A name with the parts of a path is no model's, node's or role's."""
        self.begin()
        for name in ("../../etc/passwd", "..%2f..%2fetc", "/etc/passwd", "a/../b", "..\\x"):
            self.assertEqual(self.chat(model=name).status, 404)
            found = self.get(f"/v1/models/{name}".replace("\\", "%5c"), **bearer(self.client_key))
            self.assertEqual(found.status, 404, name)
            told: dict[str, Any] = {"node": name, "instance": "one", "backends": []}
            self.assertEqual(self.post(REGISTER, told, **bearer(self.token)).status, 400)

    def test_CVE_2026_5530_GO_2025_3824_no_credentials_elsewhere(self) -> None:
        """A redirect of a backend leads nowhere: its target gets no connection and no key, neither
        by a check nor by a request, and the client no address."""
        self.a.health = (302, {})
        self.a.props = (302, {})
        self.begin()
        self.assertEqual(self.ready(**bearer(self.client_key)), (0, 1))
        self.a.health = (200, {})
        self.net.spend(5)
        client = self.ask(headers=bearer(self.client_key))
        self.a.work[-1].json(307, {}, f"Location: {self.b.url}/v1/chat/completions\r\n")
        self.net.spend(1)
        self.assertEqual(client.answer.status, 502)
        self.assertNotIn("location", client.answer.headers)
        self.assertNotIn(str(self.b.port).encode(), client.answer.data)
        self.assertEqual((self.b.checks, self.b.work), ([], []))

    def test_GPUStack_4211_no_trust_by_address(self) -> None:
        """Behind a proxy everybody comes from loopback, and may write any header: neither is worth
        a key."""
        self.begin()
        names = ("X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Client-IP", "X-Forwarded-Host")
        for near in NEAR:
            headers = {**dict.fromkeys(names, near), "Host": "localhost"}
            for method, path in (
                ("POST", CHAT),
                ("GET", "/v1/models"),
                ("GET", "/v1/nodes"),
                ("POST", "/v1/nodes/box2/drain"),
            ):
                self.turn(1)
                body = {"model": "coder", "messages": HELLO} if path == CHAT else None
                answer = self.client().send(method, path, body, headers).answer
                self.assert_refused(answer, 401, "invalid_api_key")
            told = {"node": "box2", "instance": "one", "backends": []}
            self.assertEqual(self.post(REGISTER, told, **headers).status, 401)

    def test_GPUStack_4211_a_key_s_networks_are_the_connection_s(self) -> None:
        """A key for some networks is not opened by a header that claims to come from there."""
        far = self.minted(KeyKind.CLIENT, 7, roles="*", networks=(read_network("10.0.0.0/8"),))
        self.begin()
        headers = {**bearer(far), "X-Forwarded-For": "10.0.0.1", "Forwarded": "for=10.0.0.1"}
        self.assert_refused(self.get("/v1/models", **headers), 401, "invalid_api_key")
        there = IPv4Address("TCP", "10.0.0.1", 50000)
        self.patch(EdgeRequest, "getClientAddress", lambda _: there)
        self.assertEqual(self.get("/v1/models", **bearer(far)).status, 200)


class OpenTests(SynchronousTestCase):
    """One word in the environment opens nothing."""

    def options(self, text: str, *words: str) -> Options:
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "models.yaml").write_text(text)
        (folder / "models.yaml").chmod(0o600)
        options = Options()
        argv = ["--config", str(folder / "models.yaml"), "--state", str(folder), *words]
        options.parseOptions(argv)
        return options

    def exit_code(self, text: str, *words: str) -> Any:
        self.patch(sys, "stderr", open(self.mktemp(), "w"))  # noqa: SIM115
        return self.assertRaises(SystemExit, self.options, text, *words).code

    def test_Ollama_env_one_variable_does_not_open_the_api(self) -> None:
        """No variable changes where a gateway listens by itself; where the file asks one for it,
        it takes keys as ever."""
        names = ("OLLAMA_HOST", "ROLEMESH_HOST", "ROLEMESH_LISTEN", "ROLE_MESH_LISTEN", "HOST")
        for name in (*names, "ROLEMESH_INSECURE", "ROLE_MESH_INSECURE", "LISTEN"):
            self.patch(os, "environ", {**os.environ, name: "tcp:8000:interface=0.0.0.0"})
            found = self.options("roles: {coder: http://127.0.0.1:8081}\n").listeners
            self.assertEqual([each.endpoint for each in found], ["tcp:8000:interface=127.0.0.1"])
        asked = "roles: {coder: http://127.0.0.1:8081}\ngateway: {listen: '${LISTEN}'}\n"
        self.assertEqual(self.exit_code(asked), 78)

    def test_P17_no_keys_no_open_door(self) -> None:
        """Listening beyond loopback without client keys ends with 78, by file and by option."""
        quiet = "roles: {coder: http://127.0.0.1:8081}\n"
        self.assertEqual(self.exit_code(quiet, "--listen", "tcp:8000"), 78)
        self.assertEqual(self.exit_code(quiet, "--listen", "tcp:8000:interface=10.0.0.1"), 78)
        self.assertEqual(self.exit_code(quiet + "gateway: {listen: 'tcp:8000'}\n"), 78)
        self.assertEqual(len(self.options(quiet, "--listen", "unix:/run/x").listeners), 1)


class ClosedTests(LessonCase):
    """What cannot be read is shut."""

    def test_P17_unreadable_keys_open_nothing(self) -> None:
        """A key file that is away, broken or open to others means 503 for every key, good or none,
        and for balancers; once it is mended all is as before, without a restart."""
        self.begin()
        good = self.keys.read_text()
        for spoil in (
            lambda: self.keys.unlink(),
            lambda: write_private(self.keys, "keys: [{}]\n"),
            lambda: write_private(self.keys, "\x00"),
            lambda: self.keys.chmod(0o644),
        ):
            spoil()
            self.turn(1)
            for headers in (raw.NONE, bearer(self.client_key), bearer(self.admin_key)):
                self.assert_refused(self.get("/v1/models", **headers), 503, "state_unavailable")
            self.assert_refused(self.ask().answer, 503, "state_unavailable")
            self.assertEqual(self.get("/ready").status, 503)
            self.assertEqual(self.get("/health").status, 200)
            self.keys.unlink(missing_ok=True)
            write_private(self.keys, good)
            self.turn(1)
            self.assertEqual(self.get("/v1/models", **bearer(self.client_key)).status, 200)
            self.assertEqual(self.get("/ready").status, 200)
        self.assertEqual(self.a.work, [])

    def test_P17_a_bug_in_the_keys_opens_nothing(self) -> None:
        """What nobody foresaw, in the middle of a check, ends the request."""
        self.begin()
        self.patch(KeyStore, "ring", lambda _: 1 / 0)
        answer = self.get("/v1/models", **bearer(self.client_key))
        self.assert_refused(answer, 500, "internal_error")
        self.assertTrue(self.flushLoggedErrors(ZeroDivisionError))


class TwistedTests(LessonCase):
    """Advisories of Twisted's own, each by what a client could have done."""

    def said(self, *lines: str, body: bytes = b"") -> raw.Answer:
        client = self.client()
        client.line.say("\r\n".join((*lines, "", "")).encode() + body)
        self.turn()
        return client.answer

    def chatted(self, *fields: str, body: bytes) -> raw.Answer:
        key = f"Authorization: Bearer {self.client_key}"
        return self.said(f"POST {CHAT} HTTP/1.1", "Host: gw", key, *fields, body=body)

    def test_Twisted_CVE_2020_10108_10109_one_length(self) -> None:
        """Two lengths, or a length and chunks, are 400, and nothing goes on."""
        self.begin()
        for fields in (
            ("Content-Length: 4", "Content-Length: 2"),
            ("Content-Length: 4", "Content-Length: 4"),
            ("Content-Length: 4", "Transfer-Encoding: chunked"),
            ("Transfer-Encoding: chunked", "Content-Length: 4"),
        ):
            self.assert_refused(self.chatted(*fields, body=b"{}{}"), 400, "bad_request")
        self.assertEqual(self.a.work, [])

    def test_Twisted_CVE_2022_24801_chunks_to_the_letter(self) -> None:
        """Sizes with signs, prefixes or underscores, folded fields and bare LF are 400."""
        self.begin()
        for size in (b"+2", b"-2", b"0x2", b"2_0", b" 2", b"2\n"):
            answer = self.chatted("Transfer-Encoding: chunked", body=size + b"\r\n{}\r\n0\r\n\r\n")
            self.assert_refused(answer, 400, "bad_request")
        for odd in ("Transfer-Encoding: xchunked", "Transfer-Encoding : chunked", "A: b\r\n c: d"):
            self.assert_refused(self.chatted(odd, body=b""), 400, "bad_request")
        self.assertEqual(self.a.work, [])

    def test_Twisted_CVE_2023_46137_CVE_2024_41671_answers_in_order(self) -> None:
        """Requests sent at once on one connection are answered one by one, in their order."""
        self.begin()
        client = self.client()
        heads = "".join(
            f"GET {path} HTTP/1.1\r\nHost: gw\r\nX-Request-Id: r{place}\r\n\r\n"
            for place, path in enumerate(("/health", "/nowhere", "/v1/models", "/health"))
        )
        client.line.say(heads.encode())
        self.turn()
        told = client.line.value().decode()
        starts = [told.index(f"X-Request-Id: r{place}") for place in range(4)]
        self.assertEqual(starts, sorted(starts))
        found = [part.split()[0] for part in told.split("HTTP/1.1 ")[1:]]
        self.assertEqual(found, ["200", "404", "401", "200"])

    def test_Twisted_CVE_2024_41810_CVE_2022_39348_no_html(self) -> None:
        """No answer is a page or a redirect with what the client sent in it, whatever it sends."""
        self.begin()
        script = "<script>alert(1)</script>"
        for path in (
            *(f"{each}{script}" for each in ("/", "//", "/v1/models/", "/v1/nodes/", "/?a=")),
            *("//evil.example/%2e%2e", "/v1//models", "/v1/models/"),
        ):
            for method in ("GET", "POST", "PUT"):
                self.turn(1)
                answer = self.said(f"{method} {path} HTTP/1.1", "Host: gw", "Content-Length: 0")
                self.assertNotIn(b"<script>", answer.data)
                self.assertNotIn("location", answer.headers)
                self.assertEqual(answer.headers["content-type"], "application/json", path)
                self.assertEqual(answer.headers["x-content-type-options"], "nosniff")
        answer = self.said("GET / HTTP/1.1", f"Host: {script}")
        self.assert_refused(answer, 400, "bad_request")

    def test_Twisted_bodies_stay_as_small_as_they_came(self) -> None:
        """A packed body is not unpacked but refused, and costs what it weighs."""
        self.begin()
        bomb = gzip.compress(b"[" * 10**7)
        fields = ("Content-Encoding: gzip", f"Content-Length: {len(bomb)}")
        self.assertEqual(self.chatted(*fields, body=bomb).status, 415)
        self.assertEqual(self.a.work, [])

    def test_Twisted_CVE_2026_42304_no_names(self) -> None:
        """Neither program imports Twisted's own DNS."""
        code = (
            "import sys, rolemesh.gateway.tap, rolemesh.node.tap, rolemesh.cli.main;"
            "print([name for name in sys.modules if name.startswith('twisted.names')])"
        )
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        self.assertEqual(told.stdout.strip(), b"[]")
