"""Invitations: their code, and their exchange."""

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.invites import (
    BadCode,
    Invite,
    TokenHash,
    exchange,
    invited,
    new_invite,
    read_code,
    token_hash,
    write_code,
)
from rolemesh.core.keys import ENTROPY, LEEWAY, KeyKind, KeyRecord, KeyRing, mint

INVITE = Invite(("http://10.0.0.1:8000",), "box2", "rmj_key", 1800, ("coder",), "sha256:x")


def token(seed: int) -> tuple[str, TokenHash]:
    text, _ = mint(KeyKind.NODE, bytes([seed]) * ENTROPY, 0)
    told = token_hash(text)
    assert told is not None
    return text, told


def invite(seed: int = 1, node: str = "box2", roles: tuple[str, ...] = ()) -> tuple[str, KeyRecord]:
    return new_invite(bytes([seed]) * ENTROPY, node, roles, 0, 1800)


class CodeTests(SynchronousTestCase):
    def test_there_and_back(self) -> None:
        """A code carries the whole invite, in one word that a shell leaves alone."""
        code = write_code(INVITE)
        self.assertRegex(code, r"\Armj_[A-Za-z0-9_-]+\Z")
        self.assertEqual(read_code(code), INVITE)

    def test_broken_lines(self) -> None:
        """What a terminal or a mail put in between does no harm."""
        code = write_code(INVITE)
        self.assertEqual(read_code(f" {code[:40]}\n  {code[40:]} \n"), INVITE)

    def test_the_whole_line(self) -> None:
        """Who copies the command with its code is understood, also behind a command of his own."""
        self.assertEqual(read_code(f"rolemesh join {write_code(INVITE)}\n"), INVITE)
        self.assertRaises(BadCode, read_code, f"rolemesh invite {write_code(INVITE)}")

    def test_damage(self) -> None:
        """Any letter that is changed, missing or too many is noticed."""
        code = write_code(INVITE)
        for at in range(4, len(code)):
            other = "A" if code[at] != "A" else "B"
            for damaged in (code[:at] + other + code[at + 1 :], code[:at]):
                try:
                    read = read_code(damaged)
                except BadCode:
                    continue
                self.assertEqual(read, INVITE)  # the last letter has bits that mean nothing
        for text in ("", "rmj_", "rmn_abc", code + "A" * 5000, "rmj_" + "é" * 20):
            self.assertRaises(BadCode, read_code, text)

    def test_nothing_secret_is_shown(self) -> None:
        """Neither an invite nor a token's hash stands in a traceback."""
        self.assertNotIn("rmj_key", repr(INVITE))
        self.assertNotIn(token(9)[1].sha256, repr(token(9)[1]))


class ExchangeTests(SynchronousTestCase):
    def test_once(self) -> None:
        """An invite becomes a token of that node with those roles; the next box gets none."""
        key, record = invite(roles=("coder",))
        text, told = token(2)
        joined = exchange((record,), key, told, 10)
        assert joined is not None
        self.assertEqual((joined.token.node, joined.token.roles), ("box2", ("coder",)))
        self.assertEqual(KeyRing(joined.records).check(text, 10), joined.token)
        self.assertIsNone(exchange(joined.records, key, token(3)[1], 11))

    def test_the_same_box_again(self) -> None:
        """Who lost the answer and asks with the same token gets the same, and nothing is added."""
        key, record = invite()
        first = exchange((record,), key, token(2)[1], 10)
        assert first is not None
        again = exchange(first.records, key, token(2)[1], 20)
        self.assertEqual(again, first)

    def test_refused_alike(self) -> None:
        """Unknown, wrong, revoked and expired invites get nothing, whoever asks."""
        key, record = invite()
        told = token(2)[1]
        self.assertIsNone(exchange((), key, told, 10))
        self.assertIsNone(exchange((record,), key[:-2] + "AA", told, 10))
        self.assertIsNone(exchange((record,), key, told, 1800 + LEEWAY))
        self.assertIsNone(exchange((evolve(record, disabled=True),), key, told, 10))
        self.assertIsNone(exchange((record,), None, told, 10))

    def test_a_token_is_no_invite(self) -> None:
        """Nor is an invite a token: what it opens is the exchange."""
        text, told = token(2)
        _, record = mint(KeyKind.NODE, bytes([2]) * ENTROPY, 0)
        self.assertIsNone(exchange((record,), text, token(3)[1], 10))
        key, open_invite = invite()
        self.assertEqual(KeyRing((open_invite,)).check(key, 10), open_invite)
        self.assertEqual(open_invite.scopes, ())
        self.assertEqual(told, token_hash(text))
        self.assertIsNone(token_hash(key))

    def test_somebody_elses_token(self) -> None:
        """A box cannot take over the record of a token that is there."""
        key, record = invite()
        _, other = mint(KeyKind.NODE, bytes([2]) * ENTROPY, 0)
        stolen = TokenHash(other.id, "0" * 64)
        self.assertIsNone(exchange((record, other), key, stolen, 10))
        self.assertIsNone(exchange((record, other), key, token(2)[1], 10))

    def test_revoked_after_joining(self) -> None:
        """A token that was revoked does not come back by its invite."""
        key, record = invite()
        joined = exchange((record,), key, token(2)[1], 10)
        assert joined is not None
        revoked = tuple(
            evolve(each, disabled=each.disabled or each is joined.token) for each in joined.records
        )
        self.assertIsNone(exchange(revoked, key, token(2)[1], 20))

    def test_names_stay_apart(self) -> None:
        """A second token of a node has a name of its own, for `rolemesh keys`."""
        key, record = invite()
        first = exchange((record,), key, token(2)[1], 10)
        assert first is not None
        key, record = invite(5)
        second = exchange((*first.records, record), key, token(3)[1], 10)
        assert second is not None
        self.assertEqual((first.token.name, second.token.name), ("box2", "box2-2"))

    def test_one_open_invite_for_a_node(self) -> None:
        """A new one takes the place of the one before; those of other nodes stay, ended ones go."""
        _, first = invite(1)
        _, other = invite(2, "box3")
        _, ended = new_invite(bytes([3]) * ENTROPY, "box4", (), 0, 60)
        _, second = invite(4)
        self.assertEqual(invited((first, other, ended), second, 100), (other, second))
