"""What a client's request body may be, what is read from it, and what goes upstream."""

import json
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.errors import Refusal
from rolemesh.core.model import Params
from rolemesh.core.openai import MAX_DEPTH, MOST_MEMBERS, Api, Ask, encode, read

SECRET = "my secret prompt"


def chat(**facts: Any) -> Ask:
    return read(Api.CHAT, json.dumps(facts).encode())


def nested(levels: int) -> bytes:
    """An object with arrays in it, so many levels deep in all."""
    return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


class BadBodyTests(SynchronousTestCase):
    def refused(self, body: bytes, code: str) -> Refusal:
        refusal = self.assertRaises(Refusal, read, Api.CHAT, body)
        self.assertEqual((refusal.code, refusal.status), (code, 400), body[:60])
        self.assertNotIn(SECRET, refusal.message)
        return refusal

    def test_C9_no_object(self) -> None:
        """Empty, broken and cut JSON, arrays, texts and numbers are invalid_json, without text."""
        for body in ("", "{", "[]", '"x"', "7", "null", "{'a': 1}", '{"a":1,}', '{"a":1}x'):
            self.refused(body.encode(), "invalid_json")
        self.refused(f'{{"{SECRET}": tru, "{SECRET}"'.encode(), "invalid_json")
        self.refused(f'["{SECRET}"]'.encode(), "invalid_json")

    def test_C9_says_where(self) -> None:
        """A message tells the byte at which JSON ends to be JSON."""
        self.assertIn("byte 7", self.refused(b'{"a":1,}', "invalid_json").message)

    def test_C10_too_deep(self) -> None:
        """One level too many is invalid_json, and so are very many, closed or not."""
        self.assertEqual(read(Api.CHAT, nested(MAX_DEPTH)).model, None)
        for body in (nested(MAX_DEPTH + 1), nested(100_000), b"[" * 100_000):
            self.assertIn("deeper than 64", self.refused(body, "invalid_json").message)

    def test_C10_too_many_members(self) -> None:
        """One member too many is invalid_json; the server would take minutes over very many."""
        most = {f"field{number}": 0 for number in range(MOST_MEMBERS)}
        self.assertEqual(len(read(Api.CHAT, json.dumps(most).encode()).members), MOST_MEMBERS)
        body = json.dumps({**most, "one": 1}).encode()
        self.assertIn("more than 1000", self.refused(body, "invalid_json").message)

    def test_C10_brackets_in_text_do_not_count(self) -> None:
        """Brackets inside of texts neither add to the depth nor take away from it."""
        closing, opening, quoted = "]" * 200, "[" * 200, '\\"]\\\\' * 50
        self.assertEqual(chat(model="m", a=opening, b=quoted).model, "m")
        deep = nested(MAX_DEPTH + 1).decode()
        for text in (closing, quoted, '"' + closing):
            self.refused(f'{{"a": {json.dumps(text)}, "b": {deep}}}'.encode(), "invalid_json")

    @given(JSON, st.integers(2, MAX_DEPTH + 20))
    @example("]" * 99, MAX_DEPTH)
    def test_C10_holds_exactly(self, value: Any, levels: int) -> None:
        """A body is refused for its depth if and only if it is deeper than the limit."""
        body = json.dumps({"a": value, "b": [json.loads(nested(levels)), value]}).encode()
        depth = max(levels + 2, _depth(value) + 2)
        if depth > MAX_DEPTH:
            self.refused(body, "invalid_json")
        else:
            self.assertIsNone(read(Api.CHAT, body).model)

    def test_C11_numbers_that_are_none(self) -> None:
        """Infinite, not-a-number and endless numbers are invalid_json."""
        for number in ("1e999", "-1e999", "NaN", "Infinity", "-Infinity", "9" * 5000, "01", "+1"):
            self.refused(f'{{"temperature":{number}}}'.encode(), "invalid_json")

    def test_C12_not_utf8(self) -> None:
        """Invalid UTF-8, UTF-16 and UTF-32, with a mark and without, are invalid_encoding."""
        text = '{"model": "m"}'
        for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"):
            self.refused(text.encode(encoding), "invalid_encoding")
        for body in (b'{"a":"\xff"}', b'{"a":"\xc0\x80"}', b'{"a":"\xed\xa0\x80"}', b'{"\xc3":1}'):
            self.refused(body, "invalid_encoding")

    def test_C12_half_a_surrogate_pair(self) -> None:
        """An escape that is half of a pair is invalid_encoding, in keys too; a pair is fine."""
        for half in (
            r"\ud800",
            r"\udc00",
            r"\ud83dx",
            r"\ud83d\u0041",
            r"\udE00\uD83D",
            r"\ud83d\ue000",
            r"\ud83d\ud83d",
            r"a\uDFFF",
        ):
            self.refused(f'{{"a":"{half}"}}'.encode(), "invalid_encoding")
            self.refused(f'{{"{half}":"a"}}'.encode(), "invalid_encoding")
        self.assertEqual(read(Api.CHAT, rb'{"a":"\ud83d\ude00"}').facts["a"], "\U0001f600")

    @given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
    @example(b'{"model":7}')
    @example(b'{"model":"a","\\u006dodel":null}')
    def test_any_bytes_are_read_or_refused(self, body: bytes) -> None:
        """Whatever a body is, it is an Ask or a Refusal; what goes on is an object either way."""
        try:
            ask = read(Api.CHAT, body)
        except Refusal as refusal:
            self.assertEqual(refusal.status, 400)
        else:
            self.assertEqual(json.loads(encode(ask.members, None)), json.loads(body))


class FieldTests(SynchronousTestCase):
    def test_C14_what_reaches_into_a_server_is_refused(self) -> None:
        """Fields that reach into a server are unsupported_parameter, and named."""
        bad: list[tuple[str, Any]] = [("n_discard", -1), ("n_discard", 0), ("lora", [])]
        bad += [("id_slot", slot) for slot in (0, 1, 0.0, -0.5, 1e300, True)]
        for name, value in bad:
            refusal = self.assertRaises(Refusal, chat, **{name: value})
            self.assertEqual((refusal.code, refusal.param), ("unsupported_parameter", name))

    def test_C14_what_is_harmless_passes(self) -> None:
        """Unknown fields, no slot in particular, and fields that name an address pass as they are;
        none of them chooses where a request goes."""
        facts: dict[str, Any] = {
            "id_slot": -1,
            "n_discard": None,
            "lora": None,
            "cache_prompt": True,
            "x": [{}],
        }
        facts |= {"api_base": "http://127.0.0.1:1", "base_url": "x", "api_key": "k"}
        self.assertEqual(json.loads(encode(chat(**facts).members, None)), facts)

    def test_model_and_stream(self) -> None:
        """`model` is a text or nothing, `stream` true, false or nothing."""
        self.assertEqual((chat().model, chat(model=None).model, chat(model="").model), (None,) * 3)
        self.assertEqual([chat(stream=said).stream for said in (None, False, True)], [0, 0, 1])
        for name, value in (("model", 7), ("model", ["a"]), ("stream", "yes"), ("stream", 1)):
            refusal = self.assertRaises(Refusal, chat, **{name: value})
            self.assertEqual((refusal.code, refusal.param), ("invalid_json", name))

    def test_paths_and_dialects(self) -> None:
        """Each API is found by its path; only Anthropic's have its shape."""
        self.assertIs(Api("/v1/messages"), Api.MESSAGES)
        self.assertEqual({api for api in Api if api.anthropic}, {Api.MESSAGES, Api.COUNT_TOKENS})

    def test_no_text_is_shown(self) -> None:
        """The representation of a request, as logs and tracebacks show it, has no prompt in it."""
        self.assertNotIn(SECRET, repr(chat(model="coder", messages=[SECRET])))


class UpstreamTests(SynchronousTestCase):
    def test_other_members_go_on_byte_for_byte(self) -> None:
        """Numbers, escapes and spaces of all that is not changed stay as they were written."""
        odd = {
            "seed": b"18446744073709551616",
            "temperature": b"1.00e-0",
            "messages": b'[ {"content" : "\\u00e9\\/ \\ud83d\\ude00"}\n]',
            "logit_bias": b'{"1": -100, "1": 3}',
        }
        body = b",".join(b'"%s":%s' % (name.encode(), raw) for name, raw in odd.items())
        sent = encode(read(Api.CHAT, b'{"model":"coder",' + body + b"}").members, "m")
        for raw in odd.values():
            self.assertIn(raw, sent)
        self.assertEqual(json.loads(sent)["model"], "m")

    def test_C13_each_key_once(self) -> None:
        """Of a key that stands twice, escaped or not, the last is read, and it alone goes on."""
        for again in ("model", r"\u006dodel", r"mod\u0065l"):
            ask = read(Api.CHAT, f'{{"model":"one","x":1,"{again}":"two","x":2}}'.encode())
            self.assertEqual(ask.model, "two")
            pairs = json.loads(encode(ask.members, ask.model), object_pairs_hook=list)
            self.assertEqual(sorted(pairs), [("model", "two"), ("x", 2)])

    def test_C13_a_forbidden_field_cannot_hide(self) -> None:
        """The gateway's eyes and the backend's are on the same one of two."""
        for body in (b'{"id_slot":-1,"id_slo\\u0074":3}', b'{"lor\\u0061":[1]}'):
            refusal = self.assertRaises(Refusal, read, Api.CHAT, body)
            self.assertEqual(refusal.code, "unsupported_parameter")
        ask = read(Api.CHAT, b'{"id_slot":3,"id_slo\\u0074":-1}')
        self.assertEqual(encode(ask.members, None), b'{"id_slot":-1}')

    def test_the_model_is_left_or_changed(self) -> None:
        """Without a name of its own, a backend gets the model that the client wrote."""
        self.assertEqual(encode(chat(model="coder").members, None), b'{"model":"coder"}')
        self.assertEqual(encode(chat(x=1).members, "m"), b'{"x":1,"model":"m"}')

    def test_params_fill_in_overrule_and_take_out(self) -> None:
        """A default gives way to the client, what is set does not, what is dropped is gone."""
        params = Params(
            default={"temperature": 0.2, "top_p": 0.9}, set={"n": 1}, drop=frozenset({"user", "n2"})
        )
        ask = chat(temperature=1, n=5, user="me", stop=None).with_params(params)
        expected = {"temperature": 1, "top_p": 0.9, "n": 1, "stop": None}
        self.assertEqual(json.loads(encode(ask.members, None)), expected)
        self.assertEqual(ask.facts, expected)

    def test_without_params_nothing_is_made(self) -> None:
        """A role without params leaves the very same request."""
        ask = chat(model="coder")
        self.assertIs(ask.with_params(Params()), ask)

    @given(st.dictionaries(st.text(), JSON), st.none() | st.text())
    def test_both_sides_read_the_same(self, facts: dict[str, Any], model: str | None) -> None:
        """What a backend reads of a request is what the gateway read, but for the model."""
        try:
            ask = chat(**facts)
        except Refusal:
            return
        expected = facts if model is None else {**facts, "model": model}
        self.assertEqual(json.loads(encode(ask.members, model)), expected)
        self.assertEqual(msgspec.json.decode(encode(ask.members, model)), expected)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0
