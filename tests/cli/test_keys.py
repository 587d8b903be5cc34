"""The promises of `rolemesh keys`."""

import argparse
import os
import stat
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.cli import key_places, keys
from rolemesh.config.keyfile import read_key_file
from rolemesh.config.locate import GATEWAY_FILE, NoConfiguration
from rolemesh.config.private import lock_beside
from rolemesh.core.keys import KeyRing, Scope, read_id


class KeysCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir()
        self.file = self.folder / "keys.yaml"
        self.models = self.folder / "models.yaml"
        self.models.write_text("roles: {planner: http://127.0.0.1:8081}\n")
        self.patch(os, "environ", {**os.environ, "ROLE_MESH_CONFIG": str(self.models)})

    def call(self, *words: str) -> int:
        """Run the command; what it wrote is in `out` and `err`."""
        parser = argparse.ArgumentParser()
        keys.register(parser.add_subparsers())
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            arguments = parser.parse_args(["keys", *words])
            code: int = arguments.run(arguments)
        self.out, self.err = out.getvalue(), err.getvalue()
        return code

    def added(self, *words: str) -> str:
        self.assertEqual(self.call("add", *words), 0, getattr(self, "err", ""))
        return self.out.strip()

    def opens(self, key: str, later: float = 0.0) -> bool:
        return KeyRing(read_key_file(self.file)).check(key, time.time() + later) is not None


class AddTests(KeysCase):
    """A new key."""

    def test_shown_once(self) -> None:
        """The key alone is on standard output, and no file holds it."""
        key = self.added("--name", "laptop")
        self.assertEqual(self.out, f"{key}\n")
        self.assertIsNotNone(read_id(key))
        self.assertNotIn(key, self.err)
        for path in self.folder.iterdir():
            self.assertNotIn(key[-43:], path.read_text())
        self.assertTrue(self.opens(key))

    def test_private(self) -> None:
        """The file is of mode 0600 also under an open umask, and only a lock is left beside it."""
        self.addCleanup(os.umask, os.umask(0))
        self.added()
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in self.folder.iterdir()}
        del modes["models.yaml"]
        self.assertEqual(modes, {"keys.yaml": 0o600, ".keys.yaml.lock": 0o600})

    def test_rights(self) -> None:
        """Every right that was asked for is in the record, and the rest is as `--help` says."""
        self.added(
            "--name", "a", "--roles", "coder,planner", "--scopes", "models", "--expires", "1d12h",
            "--network", "10.0.0.0/8", "--network", "fd00::/8", "--note", "x y",
        )  # fmt: skip
        self.added("--name", "b")
        narrow, wide = read_key_file(self.file)
        self.assertEqual((narrow.roles, narrow.scopes), (("coder", "planner"), (Scope.MODELS,)))
        self.assertEqual([str(each) for each in narrow.networks], ["10.0.0.0/8", "fd00::/8"])
        self.assertAlmostEqual((narrow.expires_at or 0) - narrow.created, 36 * 3600, delta=2)
        self.assertEqual((wide.roles, wide.networks, wide.expires_at), ("*", (), None))

    def test_says_how_to_use_it(self) -> None:
        """The lines that the gateway's file lacks are shown, and no longer once they are there."""
        self.added("--name", "a")
        self.assertIn(f"gateway:\n  keys: {{file: {self.file}}}\n", self.err)
        self.models.write_text("gateway: {keys: {file: keys.yaml}}\n")
        self.added("--name", "b")
        self.assertNotIn("gateway:", self.err)

    def test_named_file(self) -> None:
        """A key goes into the file that the gateway's configuration names."""
        self.models.write_text("gateway: {keys: {file: other.yaml}}\n")
        self.added()
        self.assertEqual(len(read_key_file(self.folder / "other.yaml")), 1)

    def test_node_token(self) -> None:
        """With --node it is a token bound to that node, in a file of its own."""
        token = self.added("--node", "box2")
        (record,) = read_key_file(self.folder / "nodes.yaml")
        self.assertTrue(token.startswith("rmn_"))
        self.assertEqual(
            (record.node, record.name, record.scopes), ("box2", "box2", (Scope.REGISTER,))
        )
        self.assertIn("tokens: {file:", self.err)
        self.assertEqual(self.call("add", "--node", "box2", "--scopes", "chat"), 1)

    def test_admin(self) -> None:
        """With --admin it is an operator's key, which opens no role, in the file of the keys."""
        key = self.added("--admin", "--name", "me")
        (record,) = read_key_file(self.file)
        self.assertTrue(key.startswith("rma_"))
        self.assertEqual((record.scopes, record.roles), ((Scope.ADMIN,), ()))
        self.assertIn("$ROLEMESH_ADMIN_KEY", self.err)
        self.assertEqual(self.call("list"), 0)
        self.assertEqual(len(self.out.splitlines()), 2)
        for words in (("--node", "box2"), ("--scopes", "chat")):
            self.assertEqual(self.call("add", "--admin", *words), 1)

    def test_taken_name(self) -> None:
        """A name stands for one key: a second is refused until the first is revoked."""
        self.added("--name", "laptop")
        self.assertEqual(self.call("add", "--name", "laptop"), 1)
        self.assertIn("already", self.err)
        self.assertEqual(self.call("revoke", "--name", "laptop"), 0)
        self.added("--name", "laptop")

    def test_broken_file(self) -> None:
        """A key file that cannot be read whole is left as it is, exit 78."""
        self.file.write_text("keys: {")
        self.file.chmod(0o600)
        self.assertEqual(self.call("add"), 78)
        self.assertIn(f"{self.file}:1:", self.err)
        self.assertEqual(self.file.read_text(), "keys: {")

    def test_nowhere(self) -> None:
        """Without a configuration or a folder the way out is told in a line, not a traceback."""
        self.assertEqual(self.call("add", "--file", str(self.folder / "no" / "keys.yaml")), 1)
        self.assertIn("No such file or directory", self.err)
        self.patch(key_places, "find_config", self.find_nothing)
        self.assertEqual(self.call("add"), 78)
        self.assertIn("--file", self.err)

    def find_nothing(self, *_: object) -> None:
        raise NoConfiguration(GATEWAY_FILE, ())

    def test_mistyped(self) -> None:
        """A value that means nothing is refused with one that does, before anything is made."""
        for words in (
            ("--expires", "soon"), ("--roles", "Bad Role"), ("--scopes", "admin"),
            ("--network", "10.0.0.1/8"), ("--node", "../x"), ("--name", "a\x1bb"), ("--roles", ""),
        ):  # fmt: skip
            with redirect_stderr(StringIO()):
                self.assertRaises(SystemExit, self.call, "add", *words)
        self.assertFalse(self.file.exists())

    def test_one_at_a_time(self) -> None:
        """Two that add at the same time both get their key: each waits for the file."""
        with lock_beside(self.file):
            adding = threading.Thread(target=self.call, args=("add", "--file", str(self.file)))
            adding.start()
            adding.join(0.2)
            self.assertFalse(self.file.exists())
        adding.join(10)
        self.assertEqual(len(read_key_file(self.file)), 1)


class ListTests(KeysCase):
    """The table."""

    def test_list(self) -> None:
        """Keys and tokens are listed with their rights and states, without secrets or hashes."""
        key, token = (
            self.added("--name", "laptop", "--roles", "coder"),
            self.added("--node", "box2"),
        )
        self.call("revoke", "--node", "box2")
        self.assertEqual(self.call("list"), 0)
        _, laptop, box2 = self.out.splitlines()
        self.assertEqual(laptop.split()[1:5], ["laptop", "-", "live", "coder"])
        self.assertEqual(box2.split()[1:4], ["box2", "box2", "revoked"])
        for record in read_key_file(self.file):
            self.assertNotIn(record.secrets[0].hash.hex(), self.out)
        self.assertNotIn(key[-43:], self.out)
        self.assertNotIn(token[-43:], self.out)

    def test_none(self) -> None:
        """With no keys the command that makes one is shown."""
        self.assertEqual(self.call("list"), 0)
        self.assertIn("rolemesh keys add", self.err)


class ChangeTests(KeysCase):
    """Rotating and revoking."""

    def test_rotate(self) -> None:
        """The new text works at once, the old one until the overlap is over."""
        old = self.added("--name", "laptop")
        self.assertEqual(self.call("rotate", "--name", "laptop", "--overlap", "1h"), 0)
        new = self.out.strip()
        self.assertEqual(read_id(new), read_id(old))
        self.assertEqual([self.opens(new), self.opens(old)], [True, True])
        self.assertEqual([self.opens(new, 3601), self.opens(old, 3601)], [True, False])

    def test_rotate_expires(self) -> None:
        """A rotation may give a key another end, and else leaves the one it has."""
        self.added("--name", "laptop", "--expires", "1d")
        for words, end in ((("--expires", "2d"), 2), ((), 2)):
            self.assertEqual(self.call("rotate", "--name", "laptop", *words), 0)
            (record,) = read_key_file(self.file)
            self.assertAlmostEqual((record.expires_at or 0) - record.created, end * 86400, delta=5)

    def test_revoke(self) -> None:
        """A revoked key opens nothing, and the others stay."""
        gone, stays = self.added("--name", "a"), self.added("--name", "b")
        self.assertEqual(self.call("revoke", "--name", read_id(gone) or ""), 0)
        self.assertEqual([self.opens(gone), self.opens(stays)], [False, True])

    def test_which(self) -> None:
        """No name, an unknown one, and one that several keys answer to change nothing, exit 1."""
        self.added("--node", "box2", "--name", "a")
        self.added("--node", "box2", "--name", "b")
        self.added()
        for words in ((), ("--name", "nobody"), ("--node", "box2")):
            self.assertEqual(self.call("revoke", *words), 1)
            self.assertIn("rolemesh keys list", self.err)
