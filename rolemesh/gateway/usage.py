"""What keys have used: counted in memory, kept in the store, and shared with other gateways."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rolemesh.core.limits import DAY
from rolemesh.gateway.records import Record
from rolemesh.gateway.store.interface import Store, StoreFailed, Usage

SAVE_EVERY = 3.0  # seconds
PATIENCE = 2.5  # seconds that the gateway's start and its end wait for the store
DAYS = 31  # that are remembered, today among them
MOST = 10**9  # tokens of one request; a backend that tells of more does not know
SAY_EVERY = 60.0
_REQUESTS, _PROMPT, _COMPLETION, _CACHED = range(4)


@define(eq=False)
class Sum:
    """What one key used of one role in one day, and how much of that the store has."""

    day: str
    key: str
    role: str
    figures: list[int] = field(factory=lambda: [0, 0, 0, 0])
    saved: list[int] = field(factory=lambda: [0, 0, 0, 0])

    def row(self) -> Usage:
        return Usage(self.day, self.key, self.role, *self.figures)

    def unsaved(self) -> Usage:
        news = (now - then for now, then in zip(self.figures, self.saved, strict=True))
        return Usage(self.day, self.key, self.role, *news)

    def was_saved(self, row: Usage) -> None:
        self.saved = [then + more for then, more in zip(self.saved, _figures(row), strict=True)]

    def adopt(self, row: Usage) -> int:
        """Take over what the store has; how many requests others added to it."""
        others = row.requests - self.saved[_REQUESTS]
        news = _figures(self.unsaved())
        self.saved = list(_figures(row))
        self.figures = [then + more for then, more in zip(self.saved, news, strict=True)]
        return others


class Ledger:
    """The sums of the last `DAYS` days: this gateway's and, from a shared store, those of others.

    `wall` tells the time of day. `failed` is told why the store could not be used; `elsewhere`, how
    many requests of a key other gateways have let in since it was told last.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        wall: Callable[[], float],
        store: Store,
        failed: Callable[[str], None],
        elsewhere: Callable[[str, int], None],
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._store = store
        self._failed = failed
        self._elsewhere = elsewhere
        self._days: dict[str, dict[str, dict[str, Sum]]] = {}  # by day, key and role
        self._changed: set[Sum] = set()
        self._has_read = False
        self._trouble = False
        self._said = float("-inf")
        self._midnight = 0.0
        self._today = ""
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._turn()))
        self._loop.clock = clock
        self._resting: Deferred[Any] = succeed(None)

    async def start(self) -> None:
        """Learn what was used in earlier lives, and from now on save what is used in this one."""
        await self._within(Deferred.fromCoroutine(self._turn()))
        self._resting = self._loop.start(SAVE_EVERY, now=False)

    async def stop(self) -> None:
        """Save what is not saved yet."""
        if self._loop.running:
            self._loop.stop()
        await self._within(self._resting)
        await self._within(Deferred.fromCoroutine(self._turn()))

    def began(self, record: Record) -> None:
        """A request of a key for a role was let in."""
        self._sum_for(record).figures[_REQUESTS] += 1

    def ended(self, record: Record) -> None:
        """It is over, however it ended."""
        prompt, completion = _sane(record.bill.prompt), _sane(record.bill.completion)
        if prompt or completion:
            figures = self._sum_for(record).figures
            figures[_PROMPT] += prompt
            figures[_COMPLETION] += completion
            figures[_CACHED] += min(_sane(record.bill.cached), prompt)

    def tokens(self, key: str) -> int:
        """What a key has used of this day."""
        sums = self._days.get(self.today(), {}).get(key, {}).values()
        return sum(each.figures[_PROMPT] + each.figures[_COMPLETION] for each in sums)

    def rows(self, days: int, key: str | None = None) -> Iterator[Usage]:
        """The sums of so many days, of which today is the last; of one key, or of all."""
        since = self._since(days)
        for each in self._sums():
            if each.day >= since and key in (None, each.key):
                yield each.row()

    def today(self) -> str:
        """The day in UTC, such as `2026-11-22`."""
        now = self._wall()
        if not self._midnight - DAY <= now < self._midnight:
            self._today, self._midnight = _day(now), (now // DAY + 1) * DAY
        return self._today

    def _sum_for(self, record: Record) -> Sum:
        found = self._sum(self.today(), record.key or "", record.role or "")
        self._changed.add(found)
        return found

    def _sum(self, day: str, key: str, role: str) -> Sum:
        roles = self._days.setdefault(day, {}).setdefault(key, {})
        if role not in roles:
            roles[role] = Sum(day, key, role)
        return roles[role]

    def _sums(self) -> Iterator[Sum]:
        for _, keys in sorted(self._days.items()):
            for _, roles in sorted(keys.items()):
                yield from (each for _, each in sorted(roles.items()))

    def _since(self, days: int) -> str:
        return _day(self._wall() - (days - 1) * DAY)

    async def _turn(self) -> None:
        """Save what changed, and hear what others saved."""
        try:
            await self._save()
            if not self._has_read or self._store.shared:
                await self._read()
        except StoreFailed as failure:
            self._say(str(failure))
        except CancelledError:
            raise
        except Exception:
            self.log.failure("keeping what was used failed; it is tried again")
        else:
            self._well()

    async def _save(self) -> None:
        changed, self._changed = self._changed, set()
        rows = {each: each.unsaved() for each in changed}
        try:
            if rows:
                await self._store.add_usage(tuple(rows.values()))
        except BaseException:
            self._changed |= changed
            raise
        for each, row in rows.items():
            each.was_saved(row)

    async def _read(self) -> None:
        """All at first; later the days to which others may still add."""
        found = await self._store.usage(self._since(2 if self._has_read else DAYS))
        for row in found:
            others = self._sum(row.day, row.key, row.role).adopt(row)
            if self._has_read and others > 0:
                self._elsewhere(row.key, others)
        self._has_read = True
        for day in [each for each in self._days if each < self._since(DAYS)]:
            del self._days[day]

    async def _within(self, waiting: Deferred[Any]) -> None:
        try:
            await waiting.addTimeout(PATIENCE, self._clock)
        except TimeoutError:
            self._say("the database does not answer")

    def _say(self, why: str) -> None:
        """Nothing is lost while this process lives, and nobody waits."""
        self._trouble = True
        if self._clock.seconds() - self._said >= SAY_EVERY:
            self._said = self._clock.seconds()
            self.log.error("what keys use cannot be saved; it is counted on: {why}", why=why)
        self._failed(why)

    def _well(self) -> None:
        if self._trouble:
            self.log.info("what keys use is saved again")
        self._trouble = False


def _figures(row: Usage) -> tuple[int, int, int, int]:
    return row.requests, row.prompt_tokens, row.completion_tokens, row.cached_tokens


def _day(wall: float) -> str:
    return f"{datetime.fromtimestamp(wall, UTC):%Y-%m-%d}"


def _sane(tokens: int | None) -> int:
    return min(max(tokens or 0, 0), MOST)
