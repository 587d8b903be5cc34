from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.openai import Api
from rolemesh.core.reading import Beginning, can_tell, telling

TELLS = b'data: {"choices":[],"object":"x","prompt_progress":{"total":9,"processed":%d}}\n\n'
FIRST = b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
SECOND = b'data: {"choices":[{"delta":{"content":" a"}}]}\n\n'
YES = msgspec.Raw(b"true")


class BeginningTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.told = 0

    def tell(self) -> None:
        self.told += 1

    def test_what_tells_of_the_prompt_is_no_beginning(self) -> None:
        """It is counted and taken out; the answer begins with the event behind it."""
        begun, held = Beginning(self.tell), bytearray()
        for processed in range(3):
            held += TELLS % processed
            self.assertFalse(begun(held))
        self.assertEqual((held, self.told), (b"", 3))
        held += FIRST + SECOND
        self.assertTrue(begun(held))
        self.assertEqual((held, self.told), (FIRST + SECOND, 3))

    def test_in_any_pieces(self) -> None:
        """However the bytes come, the same are left, in any dress of a stream."""
        for end in (b"\n\n", b"\r\n\r\n", b"\r\r", b"\r\n\n"):
            for head in (b"", b"\xef\xbb\xbf"):
                stream = b": ping\n\n".join((head, TELLS % 1, TELLS % 2, FIRST))
                begun, held = Beginning(self.tell), bytearray()
                for byte in stream.replace(b"\n\n", end):
                    held.append(byte)
                    self.assertEqual(begun(held), b"assistant" in held and held[-1] in b"\r\n")
                left = head + b": ping\n\n" * 3 + FIRST
                self.assertEqual(
                    held.replace(b"\n", b""), left.replace(b"\n\n", end).replace(b"\n", b"")
                )
                self.assertTrue(begun(held))

    def test_words_of_the_answer(self) -> None:
        """A text that quotes such an event is the answer's, and stays."""
        quoted = b'data: {"choices":[{"delta":{"content":",\\"prompt_progress\\":{"}}]}\n\n'
        begun, held = Beginning(self.tell), bytearray(quoted)
        self.assertTrue(begun(held))
        self.assertEqual((held, self.told), (quoted, 0))

    def test_asked_for_by_the_client(self) -> None:
        """Then it is an event like all others."""
        held = bytearray(TELLS % 1)
        self.assertTrue(Beginning()(held))
        self.assertEqual(held, TELLS % 1)


class CanTellTests(SynchronousTestCase):
    def test_who_may_be_asked(self) -> None:
        """Chats and completions with one choice, whose client has not said what it wants."""
        self.assertTrue(can_tell(Api.CHAT, {}, {}))
        self.assertTrue(can_tell(Api.COMPLETIONS, {}, {"n": 1}))
        self.assertFalse(can_tell(Api.CHAT, {}, {"n": 2}))
        self.assertFalse(can_tell(Api.CHAT, {"return_progress": YES}, {"return_progress": True}))
        for api in (Api.RESPONSES, Api.MESSAGES, Api.EMBEDDINGS):
            self.assertFalse(can_tell(api, {}, {}))

    def test_several_prompts(self) -> None:
        """Not of several prompts, of which one is written while another is read; a list of tokens,
        perhaps with text between them, is one."""
        several: list[Any] = [["a", "b"], [[1, 2], [3]]]
        for prompt in several:
            self.assertFalse(can_tell(Api.COMPLETIONS, {}, {"prompt": prompt}))
        one: list[Any] = ["a", ["a"], [1, 2], [1, "a"], []]
        for prompt in one:
            self.assertTrue(can_tell(Api.COMPLETIONS, {}, {"prompt": prompt}))

    def test_how(self) -> None:
        """One member more; those of the request are as they were."""
        asked = {"model": msgspec.Raw(b'"m"')}
        self.assertEqual(telling(asked), {**asked, "return_progress": YES})
        self.assertEqual(asked, {"model": msgspec.Raw(b'"m"')})
