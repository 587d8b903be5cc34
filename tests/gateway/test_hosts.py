"""Which Host is answered, and what browsers are told: row C27."""

from pathlib import Path

from rolemesh.config.keyfile import key_file_text
from rolemesh.config.private import write_private
from rolemesh.core.keys import ENTROPY, KeyKind, mint
from tests.gateway.memory import GatewayCase

OURS = ("localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1", "127.0.0.1:8000", "[::1]:8000")
OTHERS = (
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "10.0.0.9",
    "0x7f000001",
)


class HostTests(GatewayCase):
    """A gateway in memory."""

    def hosts(self, path: str, *hosts: str) -> set[int]:
        return {self.get(path, Host=host).status for host in hosts}

    def test_C27_ours(self) -> None:
        """Loopback's own names are answered, and those that the file allows."""
        self.start(allowed_hosts=("Mesh.lan", "192.0.2.7"))
        self.assertEqual(self.hosts("/v1/models", *OURS, "mesh.lan:8000", "192.0.2.7"), {200})

    def test_C27_rebinding(self) -> None:
        """Without keys, a page whose own name was made to lead here reads nothing."""
        self.start()
        for path in ("/v1/models", "/health", "/ready", "/v1/nodes"):
            self.assertEqual(self.hosts(path, *OTHERS), {403}, path)
        refused = self.get("/v1/models", Host="evil.example")
        self.assert_refused(refused, 403, "scope_missing")
        self.assertIn("gateway.allowed_hosts", refused.json["error"]["message"])

    def test_C27_before_the_body(self) -> None:
        """Such a page sends no work either: it is refused by its head."""
        (server,) = self.mesh()
        self.assert_refused(self.ask(headers={"Host": "evil.example"}).answer, 403, "scope_missing")
        self.assertEqual(server.work, [])

    def test_C27_keys(self) -> None:
        """Where a key is asked for, a gateway may have any name; the dashboard may not."""
        text, record = mint(KeyKind.CLIENT, b"k" * ENTROPY, 1.0)
        keys = Path(self.mktemp())
        write_private(keys, key_file_text([record]))
        self.start(keys=keys)
        bearer = {"Authorization": f"Bearer {text}"}
        answer = (
            self.client().send("GET", "/v1/models", None, {"Host": "mesh.lan", **bearer}).answer
        )
        self.assertEqual(answer.status, 200)
        for path in ("/ui", "/ui/", "/%75i/"):
            self.assertEqual(self.hosts(path, "mesh.lan"), {403}, path)
        self.assertNotIn(403, self.hosts("/ui/", *OURS))

    def test_C27_no_sharing(self) -> None:
        """No answer lets a page of another origin read it, and no preflight passes."""
        self.start()
        page = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        for method, path in (("GET", "/v1/models"), ("OPTIONS", "/v1/chat/completions")):
            answer = self.client().send(method, path, None, page).answer
            self.assertNotIn(b"access-control", answer.data.lower())
        self.assertEqual(answer.status, 405)

    def test_C27_headers(self) -> None:
        """Answers and refusals alike are not sniffed, not kept, and tell no version."""
        self.start()
        for path in ("/health", "/v1/models", "/nothing"):
            head = self.get(path).data.partition(b"\r\n\r\n")[0].lower()
            self.assertIn(b"x-content-type-options: nosniff", head)
            self.assertIn(b"cache-control: no-store", head)
            self.assertNotIn(b"server:", head)
            self.assertNotIn(b"twisted", head)
