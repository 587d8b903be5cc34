"""The promises of `rolemesh store`, and of `rolemesh keys` on a database."""

import os
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from rolemesh.cli.main import main
from rolemesh.config.keybook import FileBook
from rolemesh.gateway.store.places import Folder
from tests.gateway.store.test_places import KEY, filled
from tests.gateway.store.test_postgres import PostgresCase


class StoreCase(PostgresCase):
    """A filled state folder and an empty database."""

    def setUp(self) -> None:
        super().setUp()
        self.home = Path(self.mktemp()).resolve()
        self.home.mkdir()
        self.state = self.home / "state"
        filled(self.state)
        self.models = self.home / "models.yaml"
        self.models.write_text("roles: {planner: tiny}\n")
        self.models.chmod(0o600)
        environ = {"ROLE_MESH_CONFIG": str(self.models), "ROLEMESH_STORE": self.database.url}
        self.patch(os, "environ", {**os.environ, **environ})

    def call(self, *words: str | Path) -> int:
        """Run a command; what it wrote is in `out` and `err`."""
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = main(list(map(str, words)))
            except SystemExit as ended:
                code = int(ended.code or 0)
        self.out, self.err = out.getvalue(), err.getvalue()
        return code

    def copy(self, source: str | Path, target: str | Path, *more: str) -> int:
        return self.call("store", "copy", "--from", source, "--to", target, *more)


class CopyTests(StoreCase):
    """`rolemesh store copy`"""

    def test_there_and_back(self) -> None:
        """Everything goes into the database and back, and each time what was copied is said."""
        self.assertEqual(self.copy(self.state, "env:ROLEMESH_STORE"), 0, self.err)
        everything = "registrations: 2, keys and tokens: 3, rows of usage: 2"
        self.assertIn(f"in {self.state}: {everything}\nnew in the database", self.out)
        self.assertTrue(self.out.endswith(f": {everything}\n"), self.out)
        self.assertEqual(self.copy("env:ROLEMESH_STORE", self.home / "new"), 0, self.err)
        self.assertEqual(Folder(self.home / "new").read(), Folder(self.state).read())

    def test_again(self) -> None:
        """The same again is no mistake and does nothing."""
        self.copy(self.state, self.database.url)
        self.assertEqual(self.copy(self.state, self.database.url), 0)
        self.assertTrue(self.out.endswith(": nothing\n"), self.out)

    def test_sources(self) -> None:
        """Several places are copied as one; a file of keys may be one of them."""
        keys = self.home / "other.yaml"
        FileBook(keys).change(lambda _: ((KEY,), None))
        self.assertEqual(self.copy(keys, self.home / "new", "--from", str(self.state)), 0)
        self.assertEqual(Folder(self.home / "new").read(), Folder(self.state).read())

    def test_refused(self) -> None:
        """Where something else is kept nothing is copied, unless that is asked for; then nothing
        is lost."""
        self.call("keys", "add", "--store", "--name", "theirs")
        self.assertEqual(self.copy(self.state, self.database.url), 1)
        self.assertIn("has of its own keys and tokens: 1. --merge", self.err)
        self.call("keys", "list", "--store")
        self.assertNotIn(KEY.id, self.out)
        self.assertEqual(self.copy(self.state, self.database.url, "--merge"), 0)
        self.assertIn("has of its own keys and tokens: 1\n", self.out)
        self.call("keys", "list", "--store")
        self.assertIn(KEY.id, self.out)
        self.assertIn("theirs", self.out)

    def test_wrong_places(self) -> None:
        """What is no place to copy from or to is told in a line, and nothing is made there."""
        empty = self.home / "empty"
        empty.mkdir()
        for source, target, text in (
            (self.home / "no", self.home / "new", "there is no"),
            (empty, self.home / "new", "is no state folder"),
            (self.state, "", "is no place"),
            (self.state, self.models, "is a file"),
            (self.state, "env:NOT_THERE", "$NOT_THERE is no URL of a database"),
            (self.state, "postgresql://me@127.0.0.1:1/x", "the database 'x' at 127.0.0.1: "),
            (self.state, "mysql://me@db/x", "is no URL of a database"),
        ):
            self.assertEqual(self.copy(source, target), 1)
            self.assertIn(text, self.err)
            self.assertEqual(len(self.err.splitlines()), 1)
        self.assertFalse((self.home / "new").exists())

    def test_password(self) -> None:
        """A password on the command line is refused and not repeated; in a private file, or in the
        environment, it is read."""
        secret = self.database.url.replace("rolemesh@", "rolemesh:s3cret@")
        self.assertEqual(self.copy(self.state, secret), 1)
        self.assertNotIn("s3cret", self.err)
        self.assertIn("env:ROLEMESH_STORE", self.err)
        file = self.home / "url"
        file.write_text(f"{secret}\n")
        self.assertEqual(self.copy(self.state, f"file:{file}"), 1)
        self.assertIn("chmod 600", self.err)
        file.chmod(0o600)
        self.assertEqual(self.copy(self.state, f"file:{file}"), 0, self.err)
        self.assertNotIn("s3cret", self.out)


class KeysTests(StoreCase):
    """`rolemesh keys` with `--store`, and with a configuration that says `store`"""

    def test_life(self) -> None:
        """A key is added, listed, rotated and revoked in the database, and in no file."""
        self.assertEqual(self.call("keys", "add", "--store", "--name", "laptop"), 0, self.err)
        first = self.out
        self.assertIn("keys: store", self.err)
        self.assertEqual(self.call("keys", "rotate", "--store", "--name", "laptop"), 0)
        self.assertNotEqual(self.out, first)
        self.assertEqual(self.call("keys", "revoke", "--store", "--name", "laptop"), 0)
        self.call("keys", "list", "--store")
        self.assertIn("revoked", self.out)
        self.assertEqual(self.call("keys", "revoke", "--store", "--name", "laptop"), 1)
        self.assertFalse((self.home / "keys.yaml").exists())

    def test_configured(self) -> None:
        """Where the gateway's file says `store`, keys and tokens go there without being told."""
        self.models.write_text(
            "gateway: {keys: store, nodes: {tokens: store}, store: {env: ROLEMESH_STORE}}"
        )
        self.assertEqual(self.call("keys", "add", "--node", "box2"), 0, self.err)
        self.assertIn("The gateway takes it within a second", self.err)
        self.assertEqual(self.call("keys", "add", "--config", self.models), 0, self.err)
        self.call("keys", "list")
        self.assertEqual(len(self.out.splitlines()), 3)
        self.assertEqual(self.call("keys", "add", "--node", "box2"), 1)

    def test_away(self) -> None:
        """A database that is away, or none, is told in a line."""
        for url in ("postgresql://me@127.0.0.1:1/x", "env:NOT_THERE"):
            self.assertEqual(self.call("keys", "list", "--store", url), 1)
            self.assertEqual(len(self.err.splitlines()), 1)
