"""The official Python SDK gets from the gateway what it gets from llama.cpp itself."""

import json
from typing import Any, ClassVar

from tests.real.harness import RealTestCase, Server, Workshop, answers, ask, need

HELLO: Any = [{"role": "user", "content": "hello world"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "paint",
        "description": "Paint it.",
        "parameters": {
            "type": "object",
            "properties": {"color": {"type": "string", "enum": ["red", "blue"]}},
            "required": ["color"],
        },
    },
}
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {"name": "paint", "schema": WEATHER["function"]["parameters"]},
}


def client(server: Server, key: str = "none") -> Any:
    """An SDK client without retries, so that a test sees every failure."""
    from openai import OpenAI

    return OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=30)


def chat(asked: Any, model: str, **options: Any) -> Any:
    """A short deterministic answer."""
    settings = {"temperature": 0, "max_tokens": 12, **options}
    return asked.chat.completions.create(model=model, messages=HELLO, **settings)


def streamed_text(stream: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def need_openai() -> None:
    from importlib.util import find_spec

    need(find_spec("openai") is not None, "the package openai")


class TheSdk:
    """What must hold in proxy mode and through the mesh alike."""

    server: ClassVar[Server]
    gateway: ClassVar[Server]
    workshop: ClassVar[Workshop]
    model: ClassVar[str] = "planner"

    def asked(self) -> Any:
        return client(self.gateway)

    def straight(self) -> Any:
        return client(self.server)

    def test_chat(self: Any) -> None:
        """A chat has the text that the server itself gives at temperature 0, and its usage."""
        mine, own = chat(self.asked(), self.model), chat(self.straight(), "tiny")
        self.assertEqual(mine.choices[0].message.content, own.choices[0].message.content)
        self.assertEqual(mine.choices[0].finish_reason, "length")
        self.assertEqual(mine.usage.completion_tokens, own.usage.completion_tokens)
        self.assertEqual(mine.usage.prompt_tokens, own.usage.prompt_tokens)

    def test_stream(self: Any) -> None:
        """A stream comes in pieces, and they are the same text."""
        mine = list(chat(self.asked(), self.model, stream=True))
        self.assertGreater(len(mine), 5)
        own = chat(self.straight(), "tiny", stream=True)
        self.assertEqual(streamed_text(mine), streamed_text(own))

    def test_stream_usage(self: Any) -> None:
        """With include_usage the last chunk has the usage and no choice."""
        options = {"include_usage": True}
        *_, last = chat(self.asked(), self.model, stream=True, stream_options=options)
        self.assertEqual(last.choices, [])
        self.assertEqual(last.usage.completion_tokens, 12)

    def test_stream_without_usage(self: Any) -> None:
        """Who did not ask for usage gets no chunk of it."""
        chunks = list(chat(self.asked(), self.model, stream=True))
        self.assertTrue(all(chunk.choices for chunk in chunks))
        self.assertTrue(all(chunk.usage is None for chunk in chunks))

    def test_tools(self: Any) -> None:
        """A tool call comes through, streamed and not."""
        for streamed in (False, True):
            options = {"tools": [WEATHER], "max_tokens": 80, "stream": streamed}
            answer = chat(self.asked(), self.model, **options)
            call = _streamed_call(answer) if streamed else _call(answer)
            self.assertEqual(call[0], "paint")
            self.assertIn(json.loads(call[1])["color"], ("red", "blue"))

    def test_logprobs(self: Any) -> None:
        """Log probabilities come through, one entry a token, as from the server."""
        options = {"logprobs": True, "top_logprobs": 2, "max_tokens": 4}
        mine = chat(self.asked(), self.model, **options).choices[0].logprobs.content
        own = chat(self.straight(), "tiny", **options).choices[0].logprobs.content
        self.assertEqual([each.token for each in mine], [each.token for each in own])
        self.assertEqual(len(mine[0].top_logprobs), 2)

    def test_two_choices(self: Any) -> None:
        """`n=2` gives two choices."""
        answer = chat(self.asked(), self.model, n=2, max_tokens=4)
        self.assertEqual([choice.index for choice in answer.choices], [0, 1])
        self.assertTrue(all(choice.message.content for choice in answer.choices))

    def test_stop(self: Any) -> None:
        """A stop sequence ends the text before it."""
        words = chat(self.straight(), "tiny").choices[0].message.content.split()
        answer = chat(self.asked(), self.model, stop=[words[1]])
        self.assertNotIn(words[1], answer.choices[0].message.content)
        self.assertEqual(answer.choices[0].finish_reason, "stop")

    def test_json_schema(self: Any) -> None:
        """A schema is kept to."""
        answer = chat(self.asked(), self.model, response_format=SCHEMA, max_tokens=80)
        self.assertIn(json.loads(answer.choices[0].message.content)["color"], ("red", "blue"))

    def test_completions(self: Any) -> None:
        """The older completions route answers as the server does, streamed too."""
        options: Any = {"prompt": "hello", "max_tokens": 6, "temperature": 0}
        mine = self.asked().completions.create(model=self.model, **options)
        own = self.straight().completions.create(model="tiny", **options)
        self.assertEqual(mine.choices[0].text, own.choices[0].text)
        stream = self.asked().completions.create(model=self.model, stream=True, **options)
        self.assertEqual(
            "".join(c.choices[0].text for c in stream if c.choices), own.choices[0].text
        )

    def test_responses(self: Any) -> None:
        """The responses route answers."""
        options: Any = {"input": "hello", "max_output_tokens": 6, "temperature": 0}
        mine = self.asked().responses.create(model=self.model, **options)
        own = self.straight().responses.create(model="tiny", **options)
        self.assertEqual(mine.output_text, own.output_text)

    def test_models(self: Any) -> None:
        """The list has the role, and retrieve, which llama.cpp lacks, finds it."""
        names = [model.id for model in self.asked().models.list()]
        self.assertIn(self.model, names)
        self.assertEqual(self.asked().models.retrieve(self.model).id, self.model)

    def test_unknown_role(self: Any) -> None:
        """A role with a slip in it is a NotFoundError that names the right one."""
        from openai import NotFoundError

        with self.assertRaises(NotFoundError) as caught:
            chat(self.asked(), self.model + "n")
        self.assertEqual(caught.exception.code, "model_not_found")
        self.assertIn(f"did you mean '{self.model}'", caught.exception.message.lower())
        self.assertTrue(caught.exception.request_id)

    def test_unknown_model_to_retrieve(self: Any) -> None:
        """Retrieving what does not exist is a NotFoundError too."""
        from openai import NotFoundError

        self.assertRaises(NotFoundError, self.asked().models.retrieve, "nobody")

    def test_server_refusals_come_through(self: Any) -> None:
        """What llama.cpp refuses is refused: too long a prompt, a wrong parameter; streamed too."""
        from openai import BadRequestError

        long: Any = [{"role": "user", "content": "hello " * 6000}]
        for streamed in (False, True):
            with self.assertRaises(BadRequestError) as caught:
                self.asked().chat.completions.create(
                    model=self.model, messages=long, stream=streamed
                )
            self.assertEqual(caught.exception.code, "context_length_exceeded")
        self.assertRaises(BadRequestError, chat, self.asked(), self.model, temperature="hot")

    def test_no_embeddings_here(self: Any) -> None:
        """A chat server without embeddings refuses them with its own status, 501."""
        from openai import APIStatusError

        with self.assertRaises(APIStatusError) as caught:
            self.asked().embeddings.create(model=self.model, input="hello")
        self.assertEqual(caught.exception.status_code, 501)

    def test_closing_a_stream_frees_the_server(self: Any) -> None:
        """After many abandoned streams the slots still answer."""
        for _ in range(4):
            stream = chat(self.asked(), self.model, stream=True, max_tokens=4000)
            next(iter(stream))
            stream.close()
        self.assertEqual(chat(self.asked(), self.model).choices[0].finish_reason, "length")

    def test_headers(self: Any) -> None:
        """The answer tells its role, its backend and the request's id."""
        raw = self.asked().chat.completions.with_raw_response.create(
            model=self.model, messages=HELLO, max_tokens=2, extra_headers={"x-request-id": "mine-1"}
        )
        self.assertEqual(raw.headers["x-request-id"], "mine-1")
        self.assertEqual(raw.headers["x-rolemesh-role"], self.model)
        self.assertTrue(raw.headers["x-rolemesh-backend"])


def _call(answer: Any) -> tuple[str, str]:
    function = answer.choices[0].message.tool_calls[0].function
    return function.name, function.arguments


def _streamed_call(stream: Any) -> tuple[str, str]:
    name = arguments = ""
    for chunk in stream:
        for call in chunk.choices[0].delta.tool_calls or [] if chunk.choices else []:
            name += call.function.name or ""
            arguments += call.function.arguments or ""
    return name, arguments


class ProxyMode(TheSdk, RealTestCase):
    """Three lines of YAML in front of a server that runs already."""

    @classmethod
    def furnish(cls) -> None:
        need_openai()
        cls.server = cls.workshop.llama_server(cls.workshop.model(), "--jinja")
        cls.gateway = cls.workshop.gateway(f"roles:\n  planner: {cls.server.url}\n")

    def test_ready(self) -> None:
        """`/health` and `/ready` are 200, and the SDK's key does not matter without keys."""
        self.assertTrue(answers(f"{self.gateway.url}/health"))
        self.assertTrue(answers(f"{self.gateway.url}/ready"))

    def test_trailing_v1_is_the_same(self) -> None:
        """A role's URL may end in /v1."""
        gateway = self.workshop.gateway(f"roles: {{planner: {self.server.url}/v1}}")
        self.assertTrue(chat(client(gateway), "planner").choices[0].message.content)


class ThroughTheMesh(TheSdk, RealTestCase):
    """The server runs under a node agent, which has registered it."""

    @classmethod
    def furnish(cls) -> None:
        need_openai()
        cls.server = cls.workshop.llama_server(cls.workshop.model(), "--jinja")
        cls.gateway = cls.workshop.gateway("roles: {planner: tiny}")
        cls.workshop.mesh_node(cls.gateway, cls.workshop.model())
        cls.gateway.program.until("the mesh is ready", lambda: answers(f"{cls.gateway.url}/ready"))

    def test_context_is_told(self) -> None:
        """The model list tells the context that one request may use."""
        model = ask(f"{self.gateway.url}/v1/models/planner").json()
        self.assertEqual(model["context_length"], 4096)


class WithKeys(RealTestCase):
    """A gateway with client keys."""

    def test_key_is_needed(self) -> None:
        """A wrong key is an AuthenticationError, the right one an answer."""
        from openai import AuthenticationError

        need_openai()
        server = self.workshop.llama_server(self.workshop.model())
        key = self.workshop.key()
        gateway = self.workshop.gateway(
            f"roles: {{planner: {server.url}}}\ngateway: {{keys: {{file: keys.yaml}}}}"
        )
        with self.assertRaises(AuthenticationError) as caught:
            chat(client(gateway, "wrong"), "planner")
        self.assertEqual(caught.exception.code, "invalid_api_key")
        self.assertTrue(chat(client(gateway, key), "planner").choices[0].message.content)
