"""The promises of `rolemesh.config.keyfile` and of the private files that it stands on."""

import os
import stat
from pathlib import Path

from attrs import evolve
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.config.keyfile import key_file_text, read_key_file, read_record, record_text
from rolemesh.config.private import lock_beside, write_private
from rolemesh.config.problems import ConfigError
from rolemesh.core.addresses import read_network
from rolemesh.core.keys import ENTROPY, SECRET_BYTES, KeyKind, mint, revoke, rotate

TEXT, RECORD = mint(KeyKind.CLIENT, bytes(ENTROPY), 1_000_000)
_, ROTATED = rotate(RECORD, bytes(SECRET_BYTES), 1_000_000, 60)
WORDS = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=20)


class KeyFileCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def wrong(self, content: str) -> str:
        """What is told of a file with a content that should not stand."""
        write_private(self.path, content)
        return self.refused()

    def refused(self) -> str:
        return str(self.assertRaises(ConfigError, read_key_file, self.path))


class ContentTests(KeyFileCase):
    """What is written and read."""

    def test_round_trip(self) -> None:
        """All that a record says is read back as it was written."""
        full = evolve(
            ROTATED, name="laptop", node="box2", roles=("coder", "planner"), scopes=(),
            networks=(read_network("10.0.0.0/8"), read_network("fd00::/8")), not_before=5.0,
            expires_at=2_000_000_000.0, note="for ${HOME}: 'tests'",
            rpm=60, concurrency=4, tokens_per_day=2_000_000,
        )  # fmt: skip
        other = evolve(revoke(mint(KeyKind.NODE, bytes([7]) * ENTROPY, 0)[1]), roles="*")
        write_private(self.path, key_file_text([full, other]))
        self.assertEqual(read_key_file(self.path), (full, other))

    @given(WORDS, WORDS)
    @example("1e5", "${HOME}")
    def test_one_record(self, name: str, note: str) -> None:
        """A record by itself is read back as it was written."""
        record = evolve(ROTATED, name=name, note=note, roles="*")
        self.assertEqual(read_record(record_text(record), record.id), record)

    def test_broken_record(self) -> None:
        """A record that makes no sense is refused, by where it stands."""
        for text in ("", "id: rmk_ab23cd45", record_text(RECORD) + "power: all\n", "{"):
            told = str(self.assertRaises(ConfigError, read_record, text, "row 7"))
            self.assertTrue(told.startswith("row 7:"), told)

    @given(WORDS, WORDS)
    @example("1e5", "2027-01-31")
    def test_any_words(self, name: str, note: str) -> None:
        """Names and notes that look like numbers, dates or YAML come back as text."""
        record = evolve(RECORD, name=name, note=note)
        write_private(self.path, key_file_text([record]))
        self.assertEqual(read_key_file(self.path), (record,))

    def test_no_secret(self) -> None:
        """The file holds no key."""
        self.assertNotIn(TEXT[-43:], key_file_text([RECORD]))

    def test_empty(self) -> None:
        """A file without keys has none, which is not the same as no file."""
        write_private(self.path, "")
        self.assertEqual(read_key_file(self.path), ())

    def test_all_problems(self) -> None:
        """Every mistake is told with its place, and a limit that is misspelt is never dropped."""
        told = self.wrong(
            key_file_text([RECORD]).replace("created", "creatd")
            + "  networks: []\n  expires_at: soon\n"
        )
        self.assertIn(":7:3: unknown key 'creatd'", told)
        self.assertIn("did you mean 'created'?", told)
        self.assertIn("networks: must not be empty", told)
        self.assertIn("expires_at: expected a time such as", told)

    def test_limits(self) -> None:
        """A limit that lets nothing through, or is no number, is an error and never no limit."""
        for limit in ("rpm: 0", "concurrency: -1", "tokens_per_day: many", "rpm: 1.5", "rpm: null"):
            told = self.wrong(key_file_text([RECORD]) + f"  {limit}\n")
            self.assertIn(f"{limit.partition(':')[0]}: expected a whole number from 1", told)

    def test_duplicates(self) -> None:
        """A key of the file that comes twice, or an id that does, is an error."""
        once = key_file_text([RECORD])
        self.assertIn("appears twice", self.wrong(f"{once}  disabled: true\n  disabled: false\n"))
        twice = key_file_text([RECORD, RECORD])
        self.assertIn("the same id", self.wrong(twice))


class PrivacyTests(KeyFileCase):
    """Who may open the file."""

    def test_private_from_the_first_byte(self) -> None:
        """The file is of mode 0600 under the most open and under the strangest umask."""
        for umask in (0o000, 0o777):
            before = os.umask(umask)
            try:
                write_private(self.path, "")
            finally:
                os.umask(before)
            self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)

    def test_open_to_others(self) -> None:
        """A file that group or world may open is refused with the command that closes it."""
        for mode in (0o640, 0o604, 0o620, 0o602):
            write_private(self.path, "")
            self.path.chmod(mode)
            self.assertIn(f"chmod 600 {self.path}", self.refused())

    def test_of_another_user(self) -> None:
        """A file of a user who is neither us nor root is refused with the command that takes it."""
        write_private(self.path, "")
        self.patch(os, "geteuid", lambda: 4711)
        if self.path.stat().st_uid == 0:
            self.assertEqual(read_key_file(self.path), ())
            os.chown(self.path, 4712, -1)
        self.assertIn("chown 4711", self.refused())

    def test_missing(self) -> None:
        """A missing file is refused with the command that makes one."""
        self.assertIn("rolemesh keys add --file", self.refused())

    def test_no_file(self) -> None:
        """A pipe or a folder in the file's place is refused at once."""
        os.mkfifo(self.path, 0o600)
        self.assertIn("not a file", self.refused())
        self.path.unlink()
        self.path.mkdir(0o700)
        self.assertIn("not a file", self.refused())

    def test_failed_write(self) -> None:
        """When a file cannot be written the old one stands whole, and nothing lies about."""
        write_private(self.path, "before")
        self.assertRaises(UnicodeEncodeError, write_private, self.path, "\ud800")
        self.assertEqual(self.path.read_text(), "before")
        self.assertEqual(list(self.path.parent.glob(f".{self.path.name}*")), [])

    def test_through_a_link(self) -> None:
        """A link to the file stays a link, and what it leads to is replaced."""
        link = Path(self.mktemp())
        link.symlink_to(self.path.resolve())
        write_private(link, "after")
        self.assertTrue(link.is_symlink())
        self.assertEqual(self.path.read_text(), "after")

    def test_left_to_the_owner_of_the_folder(self) -> None:
        """What root makes in another user's folder is that user's, and so is the lock beside it."""
        given: list[tuple[int, int]] = []
        self.patch(os, "geteuid", lambda: 0)
        self.patch(os, "fchown", lambda _, user, group: given.append((user, group)))
        self.path.parent.mkdir(exist_ok=True)
        with lock_beside(self.path):
            write_private(self.path, "keys: []\n")
        folder = self.path.parent.stat()
        self.assertEqual(given, [(folder.st_uid, folder.st_gid)] * 2)
