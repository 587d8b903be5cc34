"""The promises of `rolemesh.gateway.joins`: an invite becomes a token, once."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rolemesh.config.gateway import NodeRules
from rolemesh.config.keybook import FileBook
from rolemesh.config.keyfile import key_file_text, read_key_file
from rolemesh.config.private import write_private
from rolemesh.core.invites import JoinRequest, exchange, new_invite, token_hash
from rolemesh.core.keys import ENTROPY, KeyKind, KeyRecord, mint
from rolemesh.gateway.joins import JOIN, spend
from tests.doubles import raw
from tests.gateway.memory import role
from tests.gateway.test_nodes import NodesCase


def made(number: int) -> tuple[str, dict[str, str]]:
    """A token as a box makes it, and what it tells of it."""
    text, _ = mint(KeyKind.NODE, bytes([number]) * ENTROPY, 0)
    told = token_hash(text)
    assert told is not None
    return text, {"id": told.id, "sha256": told.sha256}


class JoinCase(NodesCase):
    """A gateway with one open invite, for `box2` and the role `writer`."""

    def setUp(self) -> None:
        super().setUp()
        self.tokens = Path(self.mktemp()).absolute()
        self.invite, self.open_invite = self.invited(1)
        self.keep(self.open_invite)
        self.begin(nodes=NodeRules(tokens=self.tokens))

    def invited(self, number: int, seconds: float = 1800.0) -> tuple[str, KeyRecord]:
        entropy = bytes([number]) * ENTROPY
        return new_invite(entropy, "box2", ("writer",), time.time(), seconds)

    def keep(self, *records: KeyRecord) -> None:
        write_private(self.tokens, key_file_text(records))
        self.net.spend(1)

    def join(self, invite: str, token: dict[str, str], **headers: str) -> raw.Answer:
        answer = self.post(JOIN, {"invite": invite, "token": token}, **headers)
        self.net.spend(1)
        return answer


class ExchangeTests(JoinCase):
    """One box after another."""

    def test_a_box_joins(self) -> None:
        """It gets to know its name and roles, and its token speaks for it from then on."""
        text, token = made(2)
        answer = self.join(self.invite, token)
        self.assertEqual((answer.status, answer.json), (200, {"node": "box2", "roles": ["writer"]}))
        headers = {"Authorization": f"Bearer {text}"}
        self.assertEqual(self.register(self.plain(), **headers).status, 200)
        self.assertEqual(self.ready("writer"), (1, 1))

    def test_written_before_it_is_told(self) -> None:
        """The token's hash is in the private file, and the invite is spent there."""
        text, token = made(2)
        self.join(self.invite, token)
        spent, kept = read_key_file(self.tokens)
        self.assertEqual((spent.disabled, kept.node, kept.id), (True, "box2", token["id"]))
        self.assertEqual(self.tokens.stat().st_mode & 0o777, 0o600)
        self.assertNotIn(text, self.tokens.read_text())

    def test_once(self) -> None:
        """Another box with the same invite is refused; the same box is told the same again."""
        first = self.join(self.invite, made(2)[1])
        self.assert_refused(self.join(self.invite, made(3)[1]), 401, "invalid_api_key")
        self.assertEqual(self.join(self.invite, made(2)[1]).json, first.json)
        self.assertEqual(len(read_key_file(self.tokens)), 2)

    def test_refused_alike(self) -> None:
        """Unknown, expired and used invites, and a token in an invite's place, look the same."""
        expired, over = self.invited(5, seconds=-100.0)
        used, done = self.invited(6)
        joined = exchange((done,), used, _hash(2), time.time())
        assert joined is not None
        self.keep(self.open_invite, over, *joined.records)
        texts = [self.invited(9)[0], expired, used, made(2)[0], "rmj_x", ""]
        answers = [self.join(text, made(3)[1]) for text in texts]
        told = [{**self.assert_refused(each, 401, "invalid_api_key")} for each in answers]
        self.assertEqual(len({each["message"] for each in told}), 1)
        self.assertEqual(self.join(self.invite, made(4)[1]).status, 200)

    def test_throttled(self) -> None:
        """Many failures from one address are told to wait; a good invite is not held back."""
        answers = [self.post(JOIN, {"invite": "x", "token": made(3)[1]}) for _ in range(20)]
        self.assertEqual({answer.status for answer in answers}, {401, 429})
        self.assertEqual(self.post(JOIN, {"invite": self.invite, "token": made(3)[1]}).status, 200)

    def test_guesses_keep_no_disk_busy(self) -> None:
        """Past ten a second from one address the tokens are not even looked at."""
        looked: list[object] = []
        self.patch(FileBook, "change", lambda *each: looked.append(each))
        for number in range(40):
            self.post(JOIN, {"invite": self.invited(number + 10)[0], "token": made(3)[1]})
        self.assertLessEqual(len(looked), 11)

    def test_an_invite_opens_nothing_else(self) -> None:
        """It registers no node and asks for no answer."""
        headers = {"Authorization": f"Bearer {self.invite}"}
        self.assert_refused(self.register(self.plain(), **headers), 401, "invalid_api_key")

    def test_a_file_that_cannot_be_written(self) -> None:
        """It is 503, and the invite is good again once the file is."""
        os.rename(self.tokens, f"{self.tokens}.away")
        self.tokens.mkdir()
        error = self.assert_refused(self.join(self.invite, made(2)[1]), 503, "state_unavailable")
        self.assertIn("not used up", str(error["message"]))
        self.assertNotIn(str(self.tokens), str(error["message"]))
        self.tokens.rmdir()
        os.rename(f"{self.tokens}.away", self.tokens)
        self.assertEqual(self.join(self.invite, made(2)[1]).status, 200)

    def test_bodies_that_are_none(self) -> None:
        """Too long, wrong fields and a browser's page are refused, and nothing is spent."""
        good: dict[str, Any] = {"invite": self.invite, "token": made(2)[1]}
        for body, status, code in (
            ({**good, "more": "x" * 5000}, 413, "request_too_large"),
            ({"invite": self.invite}, 400, "bad_request"),
            ({**good, "token": {"id": "rmk_aaaaaaaa", "sha256": "0" * 64}}, 400, "bad_request"),
            ({**good, "token": {"id": "rmn_aaaaaaaa", "sha256": "0"}}, 400, "bad_request"),
        ):
            self.assert_refused(self.post(JOIN, body), status, code)
        page = self.join(self.invite, made(2)[1], Origin="http://localhost")
        self.assertEqual(page.status, 403)
        self.assertEqual(self.join(self.invite, made(2)[1]).status, 200)

    def test_a_node_called_join(self) -> None:
        """It may have that name: only the POST is for invites."""
        self.assertEqual(self.get(JOIN).status, 401)

    def test_what_a_node_sees_of_itself(self) -> None:
        """Its backends, and how many of its roles' backends are ready; nobody else's."""
        text, token = made(2)
        self.join(self.invite, token)
        headers = {"Authorization": f"Bearer {text}"}
        self.assert_refused(self.get("/v1/nodes/box2", **headers), 410, "unknown_node")
        self.register(self.full(self.backend(roles=["writer"])), **headers)
        told = self.get("/v1/nodes/box2", **headers).json
        self.assertEqual(told["roles"], {"writer": {"ready": 1, "total": 1}})
        self.assertEqual([each["id"] for each in told["backends"]], ["gpu0"])
        self.assertEqual(self.get("/v1/nodes/box3", **headers).status, 403)


class WithoutTokensTests(NodesCase):
    def test_nothing_to_join(self) -> None:
        """A gateway that asks for no tokens knows no invite."""
        self.start(role(use=()))
        body = {"invite": "rmj_x", "token": made(2)[1]}
        self.assert_refused(self.post(JOIN, body), 401, "invalid_api_key")


class RacingTests(JoinCase):
    def test_boxes_at_several_gateways(self) -> None:
        """Of many boxes that come with one invite at one time, to whichever gateway, one is in."""

        def ask(number: int) -> bool:
            asked = JoinRequest(self.invite, _hash(number))
            return spend(FileBook(self.tokens), asked, time.time()) is not None

        with ThreadPoolExecutor(8) as boxes:
            self.assertEqual(sum(boxes.map(ask, range(10, 26))), 1)


def _hash(number: int) -> Any:
    return token_hash(made(number)[0])
