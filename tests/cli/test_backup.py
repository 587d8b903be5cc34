"""The promises of `rolemesh backup` and `rolemesh restore`."""

import os
import shlex
import sqlite3
import stat
import tarfile
from contextlib import closing, redirect_stderr, redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.cli.archive import (
    DATABASE,
    FORMAT,
    BadArchive,
    Entry,
    Manifest,
    entry,
    read_archive,
    write_archive,
)
from rolemesh.cli.main import main
from rolemesh.config.gateway import load_gateway
from rolemesh.config.keybook import FileBook
from rolemesh.gateway.store.contents import copying
from rolemesh.gateway.store.places import GATEWAY, Folder
from rolemesh.gateway.store.sqlite_file import SqliteFile
from rolemesh.state import StateFolder
from tests.gateway.store.suite import used
from tests.gateway.store.test_places import KEY, filled

MODELS = """\
roles:
  planner: {use: {url: "http://127.0.0.1:9", key: {file: ../secret/backend}}}
  coder: {use: {url: "http://127.0.0.1:9", key: {env: BACKEND_KEY}}}
gateway:
  keys: {file: keys.yaml}
"""


class Case(SynchronousTestCase):
    """A gateway's files in `old`, and nothing in `new`."""

    def setUp(self) -> None:
        self.home = Path(self.mktemp()).resolve()
        self.old, self.new = self.home / "old", self.home / "new"
        for folder in (self.old / "configs", self.old / "secret", self.new):
            folder.mkdir(parents=True)
        self.state = filled(self.old / "state")
        self.private("configs/models.yaml", MODELS)
        self.private("secret/backend", "s3cret\n")
        FileBook(self.old / "configs" / "keys.yaml").change(lambda _: ((KEY,), None))
        self.file = self.home / "gw.tar.gz"
        self.patch(os, "environ", {**os.environ, "BACKEND_KEY": "b", "ROLE_MESH_CONFIG": ""})

    def private(self, name: str, text: str) -> None:
        path = self.old / name
        path.write_text(text)
        path.chmod(0o600)

    def call(self, *words: str | Path) -> int:
        """Run a command; what it wrote is in `out` and `err`."""
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main(list(map(str, words)))
        self.out, self.err = out.getvalue(), err.getvalue()
        return code

    def back_up(self) -> int:
        folder = self.old
        config = folder / "configs" / "models.yaml"
        return self.call("backup", self.file, "--config", config, "--state", folder / "state")

    def restore(self, *more: str) -> int:
        config, state = self.new / "etc" / "models.yaml", self.new / "state"
        return self.call("restore", self.file, "--config", config, "--state", state, *more)


class MoveTests(Case):
    """A gateway from one host to another."""

    def test_all_of_it(self) -> None:
        """Configuration, keys, secrets and state are as they were, each private, also when the
        gateway runs meanwhile."""
        with StateFolder(self.old / "state", GATEWAY).held():
            self.assertEqual(self.back_up(), 0, self.err)
        self.assertEqual(self.restore(), 0, self.err)
        etc = self.new / "etc"
        self.assertEqual((etc / "models.yaml").read_text(), MODELS)
        self.assertEqual(FileBook(etc / "keys.yaml").read(), (KEY,))
        there = Folder(self.new / "state").read()
        self.assertEqual((there.nodes, there.counts), self.kept())
        files = [each for each in self.new.rglob("*") if each.is_file()]
        self.assertEqual(
            {stat.S_IMODE(each.stat().st_mode) for each in [*files, self.file]}, {0o600}
        )

    def test_under_writing(self) -> None:
        """What was written and does not lie in the database's own file yet is packed as well."""
        with closing(sqlite3.connect(self.old / "state" / "state.db")) as other:
            other.execute("UPDATE nodes SET source = 'just now'")
            other.commit()
            self.assertEqual(self.back_up(), 0, self.err)
        self.restore()
        rows = Folder(self.new / "state").read().nodes.values()
        self.assertEqual({row[4] for row in rows}, {"just now"})

    def kept(self) -> tuple[object, object]:
        found = self.state.read()
        return found.nodes, found.counts

    def test_what_lies_elsewhere(self) -> None:
        """A file outside the configuration's folder is restored beside it, never where the archive
        says, and the line that puts it in its place is told; it works."""
        self.back_up()
        self.assertEqual(self.restore(), 0, self.err)
        self.assertFalse((self.new / "secret").exists())
        [line] = [line for line in self.out.splitlines() if "install -D" in line]
        *_, source, target = line.split()
        self.assertEqual(Path(target), self.new / "secret" / "backend")
        (self.new / "secret").mkdir()
        Path(source).rename(target)
        settings = load_gateway(self.new / "etc" / "models.yaml", {"BACKEND_KEY": "b"})
        self.assertEqual(len(settings.roles), 2)

    def test_environment(self) -> None:
        """What the configuration reads from the environment is not in there, and is named."""
        self.back_up()
        self.assertIn("$BACKEND_KEY, not in here", self.out)
        self.restore()
        self.assertIn("set $BACKEND_KEY", self.out)

    def test_no_secret_told(self) -> None:
        """Neither command shows what it packs."""
        for command in (self.back_up, self.restore):
            self.assertEqual(command(), 0)
            for secret in ("s3cret", KEY.secrets[0].hash.hex()):
                self.assertNotIn(secret, self.out + self.err)

    def test_counts_for_itself(self) -> None:
        """What both the old and the new gateway count after the move is one sum, not one of two."""
        self.back_up()
        self.restore()
        old, new = Folder(self.old / "state"), Folder(self.new / "state")
        for place, times in ((old, 3), (new, 5)):
            file = SqliteFile(place.path / "state.db")
            with file.transaction() as cursor:
                file.tables.add_usage(cursor, [used(times)])
        found = old.read()
        new.put(lambda there: copying(found, there).wanted)
        file = SqliteFile(new.path / "state.db")
        with file.transaction() as cursor:
            self.assertIn(used(10), file.tables.usage(cursor, ""))

    def test_shared_database(self) -> None:
        """Of a gateway on a database the database is not packed, and that is said."""
        self.private("configs/models.yaml", "gateway: {store: 'postgresql://me@db/mesh'}")
        self.assertEqual(self.back_up(), 0, self.err)
        self.assertIn("in the database, and not in here", self.out)
        self.assertNotIn(DATABASE, read_archive(self.file)[1])


class BackupTests(Case):
    """What cannot be packed."""

    def test_not_over(self) -> None:
        """An archive is never written over another file."""
        self.file.write_text("precious")
        self.assertEqual(self.back_up(), 1)
        self.assertIn("is there already", self.err)
        self.assertEqual(self.file.read_text(), "precious")

    def test_incomplete(self) -> None:
        """Without its database, a file that it names, or with a broken database there is no backup
        that would only look like one."""
        config = self.old / "configs" / "models.yaml"
        self.assertEqual(self.call("backup", self.file, "--config", config, "--state", self.new), 1)
        self.assertIn("say with --state", self.err)
        (self.old / "configs" / "keys.yaml").unlink()
        self.assertEqual(self.back_up(), 1)
        self.assertIn("keys.yaml", self.err)
        FileBook(self.old / "configs" / "keys.yaml").change(lambda _: ((KEY,), None))
        (self.old / "state" / "state.db").write_bytes(b"no database " * 400)
        self.assertEqual(self.back_up(), 1)
        self.assertEqual(list(self.home.glob("*gw.tar.gz*")), [])

    def test_wrong_configuration(self) -> None:
        """A configuration with a mistake is told by file and line, with 78."""
        self.private("configs/models.yaml", "rolse: {}")
        self.assertEqual(self.back_up(), 78)
        self.assertIn("models.yaml:1:1", self.err)


class RestoreTests(Case):
    """What is not restored, or not over something."""

    def test_not_over(self) -> None:
        """Files that are there are not touched, and none is made; with --force they are set
        aside."""
        self.back_up()
        (self.new / "etc").mkdir()
        (self.new / "etc" / "keys.yaml").write_text("mine")
        self.assertEqual(self.restore(), 1)
        self.assertIn("keys.yaml is there already", self.err)
        self.assertEqual([each.name for each in (self.new / "etc").iterdir()], ["keys.yaml"])
        self.assertEqual(self.restore("--force"), 0, self.err)
        [aside] = (self.new / "etc").glob("keys.yaml.before-*")
        self.assertEqual(aside.read_text(), "mine")

    def test_not_under_a_gateway(self) -> None:
        """Nothing is restored into a state folder that a gateway has."""
        self.back_up()
        with StateFolder(self.new / "state", GATEWAY).held():
            self.assertEqual(self.restore(), 1)
        self.assertIn("in use", self.err)
        self.assertFalse((self.new / "etc").exists())

    def test_nothing_to_paste(self) -> None:
        """What somebody wrote into an archive steers no terminal, and no shell that it is pasted
        into."""
        self.back_up()
        manifest, contents = read_archive(self.file)
        name, content = "elsewhere/a;b", b"x"
        wrong = entry(name, content, "/tmp/\x1b[2Jx; touch /tmp/y")
        changed = msgspec.structs.replace(manifest, entries=(*manifest.entries, wrong))
        self.file.unlink()
        write_archive(self.file, changed, {**contents, name: content}, 0)
        self.assertEqual(self.restore(), 0, self.err)
        self.assertNotIn("\x1b", self.out)
        [line] = [
            line for line in self.out.splitlines() if "install -D" in line and "touch" in line
        ]
        self.assertEqual(len(shlex.split(line)), 6)

    def test_newer_schema(self) -> None:
        """A database of a later RoleMesh is refused before anything is made."""
        file = SqliteFile(self.old / "state" / "state.db")
        self.back_up()
        with file.transaction() as cursor:
            cursor.execute("INSERT INTO schema_version VALUES (999)")
        manifest, contents = read_archive(self.file)
        content = file.content()
        entries = [each for each in manifest.entries if each.name != DATABASE]
        changed = msgspec.structs.replace(manifest, entries=(*entries, entry(DATABASE, content)))
        self.file.unlink()
        write_archive(self.file, changed, {**contents, DATABASE: content}, 0)
        self.assertEqual(self.restore(), 1)
        self.assertIn("version 999", self.err)
        self.assertFalse((self.new / "etc").exists())


class ArchiveTests(SynchronousTestCase):
    """The file by itself."""

    def setUp(self) -> None:
        self.file = Path(self.mktemp())

    def made(self, *names: str, **more: str) -> Manifest:
        """An archive of files that hold their own names."""
        contents = {name: name.encode() for name in names}
        entries = tuple(entry(name, content) for name, content in contents.items())
        manifest = Manifest("1", "now", "config/models.yaml", entries, **more)  # type: ignore[arg-type]
        self.file.unlink(missing_ok=True)
        write_archive(self.file, manifest, contents, 0)
        return manifest

    def refusal(self) -> str:
        return str(self.assertRaises(BadArchive, read_archive, self.file))

    def test_round_trip(self) -> None:
        """What was packed is what is read."""
        manifest = self.made("config/models.yaml", DATABASE, "elsewhere/etc/key")
        found, contents = read_archive(self.file)
        self.assertEqual(found, manifest)
        self.assertEqual(contents[DATABASE], DATABASE.encode())

    def test_traversal(self) -> None:
        """A name that would leave the gateway's folders is refused, in every form."""
        for name in (
            "/etc/passwd", "../x", "config/../../x", "config/..", "config", "state/x.lock", "x/y",
            "config//x", "config/./x", "elsewhere/../x", "config/a\nb", "",
        ):  # fmt: skip
            self.made("config/models.yaml", name)
            self.assertIn("outside", self.refusal(), name)

    def test_links(self) -> None:
        """A link in a file's place, and a file that is not in the list, are refused."""
        manifest = msgspec.json.encode(self.made("config/models.yaml"))
        for kind, name in ((tarfile.SYMTYPE, "config/models.yaml"), (tarfile.REGTYPE, "config/x")):
            with tarfile.open(self.file, "w:gz") as archive:
                told = tarfile.TarInfo("manifest.json")
                told.size = len(manifest)
                archive.addfile(told, BytesIO(manifest))
                wrong = tarfile.TarInfo(name)
                wrong.type, wrong.linkname = kind, "/etc/passwd"
                archive.addfile(wrong)
            self.assertIn("not in its list", self.refusal())

    def test_changed(self) -> None:
        """A file that is not what the list says, or is missing, is told."""
        entries = (entry("config/models.yaml", b"x"), Entry("config/k", "0" * 64, 1))
        manifest = Manifest("1", "now", "config/models.yaml", entries)
        for contents, text in (
            ({"config/models.yaml": b"x", "config/k": b"y"}, "config/k is not what"),
            ({"config/models.yaml": b"x", "config/k": b"long"}, "config/k is not what"),
            ({"config/models.yaml": b"x"}, "config/k is missing"),
        ):
            self.file.unlink(missing_ok=True)
            write_archive(self.file, manifest, contents, 0)
            self.assertIn(text, self.refusal())

    def test_later_format(self) -> None:
        """An archive of another format is refused, with the numbers of both."""
        self.made("config/models.yaml", format=FORMAT + 1)  # type: ignore[arg-type]
        self.assertIn(f"format {FORMAT + 1}", self.refusal())

    def test_damaged(self) -> None:
        """Bytes that are no archive, or half of one, are told as such, whatever they are."""
        self.made("config/models.yaml", DATABASE)
        whole = self.file.read_bytes()
        for content in (b"", b"hello", whole[: len(whole) // 2], whole[:20] * 9):
            self.file.write_bytes(content)
            self.refusal()
        for at in range(10, len(whole), 7):
            self.file.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
            try:
                read_archive(self.file)
            except BadArchive:
                continue
