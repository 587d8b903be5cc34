"""Clients of Python get from the gateway what they get from llama.cpp itself."""

from tests.real.clients.client_case import ROLE, ClientTestCase


class AnthropicSdk(ClientTestCase):
    """The official SDK of Anthropic."""

    program = "anthropic_sdk"

    def test_message(self) -> None:
        """A message, with its usage and why it ended; system blocks and tool results go in."""
        self.assertEqual(self.value("message")["stop_reason"], "max_tokens")
        self.assertTrue(self.value("system"))
        self.assertTrue(self.value("tool_result"))

    def test_stream(self) -> None:
        """A stream is the same text in pieces."""
        streamed = self.value("stream")
        self.assertEqual(streamed["text"], self.mine["message"]["value"]["text"])
        self.assertGreater(streamed["pieces"], 5)

    def test_tools(self) -> None:
        """A tool is used, streamed and not."""
        for case in ("tool", "streamed_tool"):
            used = self.value(case)
            self.assertEqual((used["name"], used["stop_reason"]), ("paint", "tool_use"))

    def test_count_tokens(self) -> None:
        """Tokens are counted."""
        self.assertGreater(self.value("count_tokens"), 5)

    def test_models(self) -> None:
        """The model list reads as the SDK's."""
        self.assertEqual(self.mine["models"]["value"], [ROLE])

    def test_unknown_role(self) -> None:
        """A slip is the SDK's NotFoundError, of Anthropic's shape."""
        self.assert_helps("unknown")
        error = self.error("unknown")
        self.assertEqual((error["type"], error["status_code"]), ("NotFoundError", 404))
        self.assertIn("'type': 'not_found_error'", error["text"])

    def test_request_id(self) -> None:
        """An error names its request where the SDK looks for it, so that `why` can be asked."""
        self.assertTrue(self.error("unknown")["request_id"])

    def test_too_long(self) -> None:
        """A prompt that is too long is the SDK's BadRequestError, with both numbers."""
        error = self.error("too_long")
        self.assertEqual(error["type"], "BadRequestError")
        self.assertIn("'n_ctx': 4096", error["text"])


class LangChain(ClientTestCase):
    """langchain-openai."""

    program = "langchain"

    def test_invoke(self) -> None:
        """An answer with its usage, by chat and by responses."""
        self.assertEqual(self.value("invoke")["usage"], 12)
        self.assertEqual(self.value("responses"), self.mine["invoke"]["value"]["text"])

    def test_stream(self) -> None:
        """A stream in pieces, with its usage."""
        streamed = self.value("stream")
        self.assertGreater(streamed["pieces"], 5)
        self.assertEqual(streamed["usage"], 12)

    def test_tools(self) -> None:
        """A bound tool is called, and what it returned is answered."""
        self.assertEqual(self.value("tools")[0][0], "paint")
        self.assertTrue(self.value("tool_turn"))

    def test_structured(self) -> None:
        """An answer by a schema."""
        self.assertIn(self.value("structured")["color"], ("red", "blue"))

    def test_unknown_role(self) -> None:
        """The help for a slip reaches the user."""
        self.assert_helps("unknown")


class PydanticAi(ClientTestCase):
    """pydantic-ai."""

    program = "pydantic_agents"

    def test_run(self) -> None:
        """An answer with its usage."""
        self.assertEqual(self.value("run")["usage"], 12)

    def test_stream(self) -> None:
        """A stream is the same text in pieces."""
        streamed = self.value("stream")
        self.assertEqual(streamed["text"], self.mine["run"]["value"]["text"])
        self.assertGreater(streamed["pieces"], 5)

    def test_structured(self) -> None:
        """Structured output, by a tool and by a schema."""
        for case in ("by_tool", "by_schema"):
            self.assertIn(self.value(case)["color"], ("red", "blue"))

    def test_unknown_role(self) -> None:
        """The help for a slip reaches the user."""
        self.assert_helps("unknown")


class OpenAiAgents(ClientTestCase):
    """openai-agents, by the Responses API."""

    program = "openai_agents"

    def test_run(self) -> None:
        """An agent answers, and goes on when what was said is sent along."""
        self.assertEqual(self.value("run")["usage"], 12)
        self.assertTrue(self.value("two_turns"))

    def test_stream(self) -> None:
        """A stream comes in pieces, and its end is the whole answer."""
        streamed = self.value("stream")
        self.assertEqual(streamed["text"], streamed["final"])
        self.assertGreater(streamed["pieces"], 5)

    def test_tool(self) -> None:
        """A tool of Python's is called with what the model chose."""
        self.assertIn(self.value("tool"), ("painted red", "painted blue"))

    def test_unknown_role(self) -> None:
        """The help for a slip reaches the user."""
        self.assert_helps("unknown")


class LiteLlm(ClientTestCase):
    """litellm, with the role as `openai/ROLE` and as `anthropic/ROLE`."""

    program = "litellm_sdk"

    def test_completion(self) -> None:
        """An answer with its usage, by either API."""
        self.assertEqual(self.value("completion")["usage"], 12)
        self.assertEqual(self.value("anthropic"), self.mine["completion"]["value"]["text"])

    def test_stream(self) -> None:
        """A stream is the same text in pieces."""
        streamed = self.value("stream")
        self.assertEqual(streamed["text"], self.mine["completion"]["value"]["text"])
        self.assertGreater(streamed["pieces"], 5)

    def test_tool(self) -> None:
        """A tool is called."""
        self.assertEqual(self.value("tool")["name"], "paint")

    def test_errors(self) -> None:
        """A slip and a prompt that is too long are what litellm calls them, and are explained."""
        self.assert_helps("unknown")
        self.assertEqual(self.error("unknown")["type"], "NotFoundError")
        self.assertEqual(self.error("too_long")["status_code"], 400)
        self.assertIn("prompt is too long", self.error("too_long")["text"])


class LlmCommand(ClientTestCase):
    """The command `llm`."""

    program = "llm_cli"

    def test_prompt(self) -> None:
        """It prints the answer, streamed or not."""
        self.assertEqual(self.value("streamed"), self.value("whole"))
        self.assertGreater(len(self.value("whole").split()), 5)

    def test_unknown_role(self) -> None:
        """The help for a slip reaches the user."""
        self.assert_helps("unknown")
