"""Requests as coding agents send them, against two real servers behind one gateway."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar
from urllib.request import Request, urlopen

from tests.real.clients.agents import Turn, claude_code, codex, opencode
from tests.real.harness import Answer, RealTestCase, Server, ask

SONNET, HAIKU = "claude-sonnet-4-5-20250929", "claude-haiku-4-5-20251001"
MESSAGES = "/v1/messages?beta=true"
COUNT_TOKENS = "/v1/messages/count_tokens?beta=true"


class AgentTestCase(RealTestCase):
    """Two servers of two slots; one role for work, and one for titles, which are cut short."""

    gateway: ClassVar[Server]

    @classmethod
    def furnish(cls) -> None:
        model = cls.workshop.model(ctx=65536)
        servers = [cls.workshop.llama_server(model, "--jinja", "-c", "65536") for _ in range(2)]
        urls = ", ".join(server.url for server in servers)
        cls.gateway = cls.workshop.gateway(f"""
roles:
  coder:
    use: [{urls}]
    aliases: [claude-sonnet-*, claude-opus-*]
    params: {{set: {{temperature: 0, max_tokens: 100}}}}
  titler:
    use: [{urls}]
    aliases: [claude-haiku-*]
    params: {{set: {{max_tokens: 16}}}}
""")

    def sent(self, path: str, turn: Turn, **changed: Any) -> Answer:
        """The answer to one request, which must be good."""
        headers, body = turn
        answer = ask(self.gateway.url + path, {**body, **changed}, **headers)
        self.assertEqual(answer.status, 200, answer.body)
        return answer

    def assert_stays(self, path: str, agent: Callable[[str, int], Turn]) -> None:
        """Two conversations in turns, with the same tools and system prompt: each stays put."""
        homes: dict[str, set[str]] = {"one": set(), "two": set()}
        for turns in range(5):
            for session, home in homes.items():
                answer = self.sent(path, agent(session, turns))
                home.add(answer.headers["x-rolemesh-backend"])
                if turns:
                    self.assertIn("affinity; cached=", answer.headers["x-rolemesh-route"])
        self.assertEqual([len(home) for home in homes.values()], [1, 1], homes)


class ClaudeCode(AgentTestCase):
    """Claude Code, which asks for models by names of its own, under `?beta=true`."""

    def test_connectivity(self) -> None:
        """What it sends before all else is answered."""
        self.assertEqual(ask(f"{self.gateway.url}/", method="HEAD").status, 200)

    def test_tools_without_type(self) -> None:
        """With 24 tools, thinking and context management the stream comes to its end."""
        answer = self.sent(MESSAGES, claude_code("s", 0, SONNET))
        self.assertEqual(answer.headers["x-rolemesh-role"], "coder")
        self.assertIn(b'"type":"content_block_delta"', answer.body)
        self.assertTrue(answer.body.rstrip().endswith(b'data: {"type":"message_stop"}'))

    def test_tool_use(self) -> None:
        """A tool is used, streamed and not; few are offered, for so small a model to see them."""
        headers, body = claude_code("s", 0, SONNET)
        turn = headers, {**body, "tools": body["tools"][:4]}
        streamed = self.sent(MESSAGES, turn).body
        self.assertIn(b'"type":"tool_use"', streamed)
        self.assertIn(b'"stop_reason":"tool_use"', streamed)
        message = self.sent(MESSAGES, turn, stream=False).json()
        self.assertEqual(message["stop_reason"], "tool_use")
        self.assertTrue(message["content"][-1]["name"].startswith("Tool"))

    def test_small_model(self) -> None:
        """Its own name for a small model finds the role that has a glob for it."""
        answer = self.sent(MESSAGES, claude_code("s", 0, HAIKU, tools=False))
        self.assertEqual(answer.headers["x-rolemesh-role"], "titler")
        self.assertIn(b'"stop_reason":"max_tokens"', answer.body)

    def test_count_tokens(self) -> None:
        """Tokens are counted with the tools in them, and more of them the longer it has gone on."""
        counted = []
        for turns in (0, 2):
            headers, body = claude_code("s", turns, SONNET)
            body = {name: body[name] for name in ("model", "system", "messages", "tools")}
            counted.append(self.sent(COUNT_TOKENS, (headers, body)).json()["input_tokens"])
        self.assertGreater(counted[0], 1000)
        self.assertGreater(counted[1], counted[0])

    def test_session(self) -> None:
        """Two conversations at once stay where their caches are, titles and counts between them."""

        def agent(session: str, turns: int) -> Turn:
            headers, body = claude_code(session, turns, SONNET)
            short = {name: body[name] for name in ("model", "system", "messages", "tools")}
            self.sent(COUNT_TOKENS, (headers, short))
            self.sent(MESSAGES, claude_code(session, 0, HAIKU, tools=False))
            return headers, body

        self.assert_stays(MESSAGES, agent)

    def test_unknown_model(self) -> None:
        """A model that no role stands for is an error of Anthropic's shape, not retried."""
        headers, body = claude_code("s", 0, "claude-3-opus")
        answer = ask(self.gateway.url + MESSAGES, body, **headers)
        self.assertEqual((answer.status, answer.headers["x-should-retry"]), (404, "false"))
        self.assertEqual(answer.json()["error"]["type"], "not_found_error")


class CountingWhileBusy(RealTestCase):
    """Counting tokens takes no slot of llama-server's."""

    def test_no_slot_is_needed(self) -> None:
        """A count is answered while the only slot is busy with a stream."""
        server = self.workshop.llama_server(self.workshop.slow_model(), "--parallel", "1")
        gateway = self.workshop.gateway(f"roles: {{coder: {server.url}}}")
        hello = b'{"model":"coder","messages":[{"role":"user","content":"hello"}]'
        long = Request(f"{gateway.url}/v1/messages", hello + b',"max_tokens":8000,"stream":true}')
        with urlopen(long, timeout=30) as stream:
            stream.readline()
            count = Request(f"{gateway.url}/v1/messages/count_tokens", hello + b"}")
            with urlopen(count, timeout=10) as counted:
                self.assertEqual(counted.status, 200)


class Codex(AgentTestCase):
    """Codex CLI, which speaks the Responses API and nothing else."""

    def test_unknown_tools(self) -> None:
        """Tools of types that a server knows nothing of do not hinder the call of one it knows."""
        answer = self.sent("/v1/responses", codex("s", 0))
        self.assertIn(b'"type":"function_call"', answer.body)
        self.assertIn(b"event: response.completed\n", answer.body)

    def test_session(self) -> None:
        """Two conversations at once stay where their caches are."""
        self.assert_stays("/v1/responses", codex)


class OpenCode(AgentTestCase):
    """opencode, which asks for a title and for work at once."""

    def test_title_beside_work(self) -> None:
        """Both are answered to the end, each by its role, with usage."""
        asked = (opencode("s", 0), opencode("s", 0, "titler", tools=False))
        with ThreadPoolExecutor(2) as pool:
            path = "/v1/chat/completions"
            work, title = pool.map(lambda turn: self.sent(path, turn), asked)
        self.assertIn(b'"finish_reason":"tool_calls"', work.body)
        self.assertIn(b'"finish_reason":"length"', title.body)
        for answer in (work, title):
            self.assertIn(b'"usage":{', answer.body)
            self.assertTrue(answer.body.endswith(b"data: [DONE]\n\n"))
        self.assertEqual(title.headers["x-rolemesh-role"], "titler")

    def test_session(self) -> None:
        """Two conversations at once stay where their caches are."""
        self.assert_stays("/v1/chat/completions", opencode)
