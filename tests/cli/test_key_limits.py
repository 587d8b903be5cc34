"""The promises of `rolemesh keys limit`, `keys show` and `usage`."""

import json
import os
import threading
from typing import Any

from rolemesh.config.keyfile import read_key_file
from rolemesh.core.keys import read_id
from tests.cli.test_keys import KeysCase
from tests.cli.test_verbs import CliCase, Server

TODAY = "2026-11-22"


def row(key: str, day: str = TODAY, requests: int = 2, role: str = "coder") -> dict[str, Any]:
    return {
        "day": day, "key": key, "name": "ci", "role": role, "requests": requests,
        "prompt_tokens": 100, "completion_tokens": 50, "cached_tokens": 20,
    }  # fmt: skip


class LimitTests(KeysCase):
    """Limits, from the first day on and later."""

    def limits(self) -> tuple[int | None, int | None, int | None]:
        (record,) = read_key_file(self.file)
        return record.rpm, record.concurrency, record.tokens_per_day

    def test_add(self) -> None:
        """A key has the limits that it was made with, and none that were not named."""
        self.added("--name", "ci", "--rpm", "60", "--tokens-per-day", "2000000")
        self.assertEqual(self.limits(), (60, None, 2_000_000))

    def test_change(self) -> None:
        """What is named is changed or, by `none`, taken away; the rest and the key stay."""
        key = self.added("--name", "ci", "--rpm", "60", "--concurrency", "4")
        self.assertEqual(self.call("limit", "ci", "--rpm", "none", "--tokens-per-day", "5"), 0)
        self.assertEqual(self.limits(), (None, 4, 5))
        self.assertIn("are now: 4 at once, 5 tokens/day.", self.err)
        self.assertEqual(self.call("limit", str(read_id(key)), "--concurrency", "1"), 0)
        self.assertEqual(self.limits(), (None, 1, 5))
        self.assertTrue(self.opens(key))

    def test_nothing_to_change(self) -> None:
        """Without a limit, or for no key, nothing changes, and what is missing is told."""
        self.added("--name", "ci", "--rpm", "60")
        for words, told in ((("ci",), "--rpm"), (("nobody", "--rpm", "1"), "no such key")):
            self.assertEqual(self.call("limit", *words), 1)
            self.assertIn(told, self.err)
        self.assertEqual(self.limits(), (60, None, None))

    def test_of_no_client(self) -> None:
        """Node tokens and admin keys have no limits."""
        for words in (("--node", "box2"), ("--admin", "--name", "me")):
            self.assertEqual(self.call("add", *words, "--rpm", "1"), 1)
        self.added("--admin", "--name", "me")
        self.assertEqual(self.call("limit", "me", "--rpm", "1"), 1)
        self.assertIn("limits are for client keys", self.err)

    def test_not_a_limit(self) -> None:
        """What is no limit is refused before anything is written."""
        for limit in ("0", "-1", "1.5", "many", "9" * 20):
            self.assertRaises(SystemExit, self.call, "add", f"--rpm={limit}")
        self.assertFalse(self.file.exists())

    def test_listed(self) -> None:
        """The list has each key's limits."""
        self.added("--name", "ci", "--rpm", "60", "--concurrency", "4")
        self.added("--name", "free")
        self.call("list")
        self.assertIn("  60/min, 4 at once  ", self.out)
        self.assertIn("  chat,models  none  ", self.out)


class ShowTests(KeysCase):
    """Everything about one key."""

    def setUp(self) -> None:
        super().setUp()
        self.server = Server()
        self.addCleanup(self.server.server_close)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.addCleanup(self.server.shutdown)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.key = self.added("--name", "ci", "--rpm", "60", "--note", "builds", "--expires", "1d")
        self.key_id = str(read_id(self.key))

    def show(self, *words: str) -> str:
        self.assertEqual(self.call("show", *words, "--url", self.url), 0, self.err)
        return self.out

    def tell(self, *rows: dict[str, Any]) -> None:
        self.server.answer = (200, {"today": TODAY, "data": rows})

    def test_all(self) -> None:
        """Rights, limits, times and what was used today and in a week; by name and by id."""
        older = row(self.key_id, "2026-11-20", 5)
        self.tell(row(self.key_id), older, row("rmk_other"), row(self.key_id, role="planner"))
        told = self.show("ci")
        for part in (self.key_id, "live", "60/min", "anywhere", "builds", "expires", "created"):
            self.assertIn(part, told)
        figures = [line.split() for line in told.splitlines()[-4:]]
        self.assertEqual(figures, [
            ["today", "coder", "2", "100", "20", "50"],
            ["today", "planner", "2", "100", "20", "50"],
            ["7", "days", "coder", "7", "200", "40", "100"],
            ["7", "days", "planner", "2", "100", "20", "50"],
        ])  # fmt: skip
        self.assertEqual(self.show(self.key_id), told)

    def test_no_secret(self) -> None:
        """Neither the key's text nor its hash is shown, in no form."""
        self.call("rotate", "--name", "ci")
        self.tell()
        (record,) = read_key_file(self.file)
        for words in (("ci",), ("ci", "--json")):
            told = self.show(*words)
            for secret in record.secrets:
                self.assertNotIn(secret.hash.hex(), told)
            self.assertNotIn(self.key[-43:], told)
        self.assertIn("the text of before works until", self.show("ci"))

    def test_nothing_used(self) -> None:
        """A key that nobody has used is told to be one."""
        self.tell()
        self.assertIn("today   -     0         0       0       0", self.show("ci"))

    def test_no_gateway(self) -> None:
        """Without a gateway the rest is told, and on standard error why the usage is not."""
        self.server.answer = (
            401,
            {"error": {"message": "no valid key", "code": "invalid_api_key"}},
        )
        told = self.show("ci")
        self.assertRegex(told, r"(?m)^usage +unknown$")
        self.assertIn("unknown: 401 invalid_api_key: no valid key", self.err)
        self.assertIn("60/min", told)

    def test_no_pin(self) -> None:
        """An environment by which no gateway can be known is a refusal, and no traceback."""
        os.environ["ROLEMESH_PIN"] = "sha256:short"
        self.assertEqual(self.call("show", "ci", "--url", self.url), 1)
        self.assertEqual((self.out, self.err.count("\n")), ("", 1))
        self.assertIn("rolemesh keys: $ROLEMESH_PIN: ", self.err)

    def test_by_another_client_s_key(self) -> None:
        """What another client's key would be told, which is nothing, is not taken for the truth."""
        other = self.added("--name", "other")
        self.tell()
        self.show("ci", "--key", other)
        self.assertIn("only an admin key may ask", self.err)
        self.assertEqual(self.server.asked, [])
        self.assertIn("today", self.show("ci", "--key", self.key))

    def test_json(self) -> None:
        """The same for programs."""
        self.tell(row(self.key_id))
        told = json.loads(self.show("ci", "--json"))
        self.assertEqual((told["id"], told["rpm"], told["concurrency"]), (self.key_id, 60, None))
        self.assertEqual(told["usage"], [row(self.key_id)])
        self.server.answer = (500, {})
        told = json.loads(self.show("ci", "--json"))
        self.assertIsNone(told["usage"])
        self.assertIn("500 without a reason (--url names", told["why"])

    def test_of_a_node(self) -> None:
        """A node's token is shown as well, and no gateway is asked for what it used."""
        self.added("--node", "box2")
        self.assertIn("register", self.show("box2"))
        self.assertEqual(self.server.asked, [])

    def test_which(self) -> None:
        """No such key is exit 1 and a line."""
        self.assertEqual(self.call("show", "nobody"), 1)
        self.assertIn("no such key", self.err)


class UsageTests(CliCase):
    """`rolemesh usage`."""

    def test_table(self) -> None:
        """A line for each day, key and role."""
        self.answer(200, {"data": [row("rmk_a"), {**row(""), "name": ""}]})
        code, told = self.call("usage", "--days", "3")
        self.assertEqual(self.server.asked[0][0], "/v1/usage?days=3")
        head, first, second = told.splitlines()
        self.assertEqual((code, head.split()[:3]), (0, ["DAY", "KEY", "ROLE"]))
        self.assertEqual(first.split(), [TODAY, "ci", "coder", "2", "100", "20", "50"])
        self.assertEqual(second.split()[1], "-")

    def test_nothing(self) -> None:
        """No usage is told as such, a refusal as one."""
        self.answer(200, {"data": []})
        self.assertEqual(self.call("usage"), (0, "nothing was asked for in 7 days\n"))
        self.answer(400, {"error": {"message": "days is a number", "code": "bad_request"}})
        told = "rolemesh usage: 400 bad_request: days is a number\n"
        self.assertEqual(self.call("usage", "--days", "99"), (1, ""))
        self.assertEqual(self.complaint, told)
