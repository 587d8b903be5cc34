"""The official Python SDK at a key's limit: what it is told makes it come again in time."""

from importlib.util import find_spec
from time import monotonic
from typing import Any

from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from rolemesh.core import limits
from tests.doubles.mesh import HELLO
from tests.gateway.row_case import RowCase, role

RPM = 60


class SdkTests(RowCase):
    """C26: `openai` with its own retries, over real sockets."""

    if find_spec("openai") is None:
        skip = "the package openai is not installed"

    def asking(self, headers: dict[str, str], **options: Any) -> Any:
        """A chat by the SDK, in a thread of its own."""
        from openai import OpenAI

        hello: Any = HELLO
        key = headers["Authorization"].removeprefix("Bearer ")
        client = OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, **options)

        def ask() -> Any:
            with client:
                return client.chat.completions.create(model="coder", messages=hello)

        return deferToThread(ask)

    async def spend(self, headers: dict[str, str], count: int) -> None:
        """Use so many requests up, one after another."""
        for _ in range(count):
            self.assertEqual((await (await self.send(headers)).closed).status, 200)

    async def test_C26_retries_at_the_rate(self) -> None:
        """A key that has sent its minute's requests sends four more at once, and all of them are
        answered, each in the second that it was told, without its program noticing."""
        headers, path = self.key(rpm=RPM)
        fake = self.fake(slots=8)
        await self.mesh(role(fake), keys=path)
        await self.spend(headers, RPM)
        began, before = monotonic(), len(fake.work)
        answers = await gatherResults([self.asking(headers) for _ in range(4)])
        self.assertEqual({each.choices[0].finish_reason for each in answers}, {"stop"})
        self.assertEqual(len(fake.work) - before, 4)
        refused = sum("'rate_limit_exceeded'" in line for line in self.logged)
        self.assertGreaterEqual(refused, 3)
        self.assertGreater(monotonic() - began, 2.0)

    async def test_C26_a_quota_is_not_retried(self) -> None:
        """A day's quota that lasts for hours is told at once, and asked about only once."""
        from openai import RateLimitError

        self.patch(limits, "left_of_day", lambda _: 3600.0)
        headers, path = self.key(tokens_per_day=1)
        await self.mesh(role(self.fake()), keys=path)
        await self.spend(headers, 1)
        error = await self.assertFailure(self.asking(headers), RateLimitError)
        self.assertEqual((error.status_code, error.code), (429, "quota_exceeded"))
        told = [line for line in self.logged if "'quota_exceeded'" in line]
        self.assertEqual(len(told), 1)
