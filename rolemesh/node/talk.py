"""What a server is asked: whether it is ready, and from then on what its slots do."""

from collections.abc import Callable
from functools import partial
from typing import NoReturn

from twisted.logger import Logger

from rolemesh.config.node import Run
from rolemesh.core.lifecycle import Event
from rolemesh.core.vigil import Pulse
from rolemesh.node.judge import Judge
from rolemesh.node.means import Door, Facts, Means


class Talk:
    """The questions to one server, and in `facts` what it said of itself when it was ready.

    The judge hears what it says; `happen` is called when it loads and when it is ready, `changed`
    when another number of its slots works or another number of requests waits for one.
    """

    _logger = Logger()

    def __init__(
        self,
        run: Run,
        means: Means,
        judge: Judge,
        happen: Callable[[Event], None],
        changed: Callable[[], None],
    ) -> None:
        self.facts = Facts()
        self._run = run
        self._ground = means.ground
        self._probe = means.probe
        self._judge = judge
        self._happen = happen
        self._changed = changed

    def forget(self) -> None:
        """Nothing is known of the process that comes."""
        self.facts = Facts()

    async def hold(self, door: Door, pid: int) -> NoReturn:
        """Ask for ever. Recorded first: no traffic may come to a process that a next agent would
        not know.

        :raises Stranger: when another program answers.
        """
        await self._ground.record(self._run, door, pid)
        self._learn(await self._probe.until_ready(door, partial(self._happen, Event.ANSWERED)))
        await self._probe.watch_slots(door, self._hear)
        raise AssertionError("slots are watched for ever")

    def _learn(self, facts: Facts) -> None:
        self.facts = facts
        self._judge.hear(Pulse(answered=True))
        if facts.context < self._run.context:
            self._logger.warn(
                "{backend}: {wanted} tokens per slot were asked for, the server has {context}",
                wanted=self._run.context,
                context=facts.context,
                backend=self._run.id,
            )
        self._happen(Event.HEALTHY)

    def _hear(self, pulse: Pulse) -> None:
        """Gateways that share these slots hear at once how many are taken."""
        before = self._judge.pulse
        self._judge.hear(pulse)
        if (pulse.busy, pulse.waiting) != (before.busy, before.waiting):
            self._changed()
