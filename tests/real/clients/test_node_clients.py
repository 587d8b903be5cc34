"""Clients of Node get from the gateway what they get from llama.cpp itself."""

from tests.real.clients.client_case import NodeTestCase


class AiSdk(NodeTestCase):
    """The Vercel AI SDK."""

    program = "ai_sdk"

    def test_text(self) -> None:
        """An answer with its usage and why it ended."""
        text = self.value("text")
        self.assertEqual((text["usage"], text["why"]), (12, "length"))

    def test_stream(self) -> None:
        """A stream is the same text in pieces, with the same usage."""
        streamed, text = self.value("stream"), self.mine["text"]["value"]
        self.assertGreater(streamed["pieces"], 5)
        self.assertEqual((streamed["text"], streamed["usage"]), (text["text"], text["usage"]))

    def test_tools(self) -> None:
        """A tool is run with what the model chose, streamed and not."""
        for case in ("called", "streamedCall"):
            self.assertIn(self.value(case)[0]["output"], ("painted red", "painted blue"))

    def test_object(self) -> None:
        """An object by its schema."""
        self.assertIn(self.value("object")["color"], ("red", "blue"))

    def test_unknown_role(self) -> None:
        """The help for a slip reaches the user, also where a stream was asked for."""
        self.assert_helps("unknown")
        self.assertEqual(self.error("unknown")["status"], 404)
        told = self.mine["unknownInStream"]["value"]
        self.assertIn("Did you mean 'coder'?", told["message"])
        self.assertTrue(told["isCall"])


class NodeResponses(NodeTestCase):
    """The Responses API of the official Node SDK."""

    program = "responses"

    def test_response(self) -> None:
        """A response with its usage."""
        response = self.value("response")
        self.assertEqual((response["usage"], response["status"]), (12, "completed"))

    def test_stream(self) -> None:
        """A stream is the same text in pieces, and ends as it must."""
        streamed = self.value("stream")
        self.assertEqual(streamed["text"], self.mine["response"]["value"]["text"])
        self.assertGreater(streamed["pieces"], 5)
        self.assertEqual((streamed["last"], streamed["usage"]), ("response.completed", 12))

    def test_tool(self) -> None:
        """A function is called."""
        self.assertEqual(self.value("tool")["name"], "paint")

    def test_unknown_role(self) -> None:
        """The help for a slip reaches the user, also where a stream was asked for."""
        for case in ("unknown", "unknownInStream"):
            self.assert_helps(case)
            self.assertEqual(self.error(case)["code"], "model_not_found")
