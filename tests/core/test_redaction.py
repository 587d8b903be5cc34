"""The promises of `rolemesh.core.redaction`."""

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.errors import Refusal
from rolemesh.core.keys import ENTROPY, KeyKind, mint
from rolemesh.core.redaction import redacted, without_keys

HINT = "no valid key: send 'Authorization: Bearer rmk_…' with a key from `rolemesh keys add`"


class RedactionTests(SynchronousTestCase):
    """What is hidden, and what is not."""

    def test_keys_of_every_kind(self) -> None:
        """Of a key its id stays, by which it is found among others; of its secret nothing does."""
        for kind in KeyKind:
            text, record = mint(kind, bytes(range(ENTROPY)), 1.0)
            for told in (redacted(f"a {text}, b"), without_keys(f"a {text}, b")):
                self.assertEqual(told, f"a {record.id}_***, b")
            self.assertEqual(redacted(f"by {record.id}."), f"by {record.id}.")

    def test_what_is_nearly_a_key(self) -> None:
        """A code, a cut key, or one with another id is hidden as well."""
        for text in ("rmj_k8KvaHR0cDovL2d3", "rmk_short", "rmn_ABCDEFGH_secret", "rmk_ab23cd45-x"):
            self.assertEqual(redacted(text), f"{text[:4]}***")

    def test_other_secrets(self) -> None:
        """Passwords and private keys, wherever they stand."""
        for secret, hidden in (
            ("postgresql://me:pw@db/x", "postgresql://***@db/x"),
            ("host=db password=pw user=me", "host=db password=*** user=me"),
            ("?access_token=abc&client_secret=def", "?access_token=***&client_secret=***"),
            ("-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END", "-----BEGIN EC PRIVATE KEY-----***"),
            ("-----BEGIN PRIVATE KEY-----\nMIIE", "-----BEGIN PRIVATE KEY-----***"),
        ):
            self.assertEqual(redacted(secret), hidden)

    def test_hints_stay(self) -> None:
        """What tells a user how to send a key is told."""
        self.assertEqual(without_keys(HINT), HINT)
        refusal = Refusal("invalid_api_key", HINT)
        for body in (refusal.openai_body(), refusal.anthropic_body("r")):
            self.assertIn(HINT, body.decode())

    def test_errors(self) -> None:
        """A key in the wrong place of a request is not shown in the error about it."""
        text, _ = mint(KeyKind.CLIENT, bytes(range(ENTROPY)), 1.0)
        refusal = Refusal("model_not_found", f"The role '{text}' does not exist.")
        for body in (refusal.openai_body(), refusal.anthropic_body("r")):
            self.assertNotIn(text[13:], body.decode())
