"""The official Python SDK at a key's limit: what it is told makes it come again in time."""

from importlib.util import find_spec
from time import monotonic
from typing import Any

from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from rolemesh.core import limits
from rolemesh.gateway import wiring
from tests.doubles.mesh import HELLO
from tests.gateway.row_case import Morning, RowCase, role

RPM = 60


class SdkTests(RowCase):
    """C26: `openai` with its own retries, over real sockets."""

    if find_spec("openai") is None:
        skip = "the package openai is not installed"

    def client(self, headers: dict[str, str]) -> Any:
        from openai import OpenAI

        key = headers["Authorization"].removeprefix("Bearer ")
        client = OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key)
        self.addCleanup(client.close)
        return client

    def asking(self, client: Any) -> Any:
        """A chat by the SDK, in a thread of its own."""
        return deferToThread(client.chat.completions.create, model="coder", messages=HELLO)

    async def spend_all(self, headers: dict[str, str]) -> None:
        """Send requests, one after another, until there are none to be had."""
        while (await (await self.send(headers)).closed).status == 200:
            pass

    def refusals(self, code: str) -> int:
        return sum(f"'{code}'" in line for line in self.logged)

    async def test_C26_retries_at_the_rate(self) -> None:
        """A key that has sent its minute's requests sends four more at once, and all of them are
        answered, each in the second that it was told, without its program noticing."""
        headers, path = self.key(rpm=RPM)
        fake = self.fake(slots=8)
        await self.mesh(role(fake), keys=path)
        clients = [self.client(headers) for _ in range(4)]
        await self.asking(clients[0])  # what the SDK loads at first takes longer than a request
        await self.spend_all(headers)
        began, before = monotonic(), len(fake.work)
        refused = self.refusals("rate_limit_exceeded")
        answers = await gatherResults([self.asking(each) for each in clients])
        self.assertEqual({each.choices[0].finish_reason for each in answers}, {"stop"})
        self.assertEqual(len(fake.work) - before, 4)
        self.assertGreaterEqual(self.refusals("rate_limit_exceeded") - refused, 3)
        self.assertGreater(monotonic() - began, 2.0)

    async def test_C26_a_quota_is_not_retried(self) -> None:
        """A day's quota that lasts for hours is told at once, and asked about only once."""
        from openai import RateLimitError

        self.patch(limits, "left_of_day", lambda _: 3600.0)
        self.patch(wiring, "time", Morning())
        headers, path = self.key(tokens_per_day=1)
        await self.mesh(role(self.fake()), keys=path)
        self.assertEqual((await (await self.send(headers)).closed).status, 200)
        error = await self.assertFailure(self.asking(self.client(headers)), RateLimitError)
        self.assertEqual((error.status_code, error.code), (429, "quota_exceeded"))
        self.assertEqual(self.refusals("quota_exceeded"), 1)
