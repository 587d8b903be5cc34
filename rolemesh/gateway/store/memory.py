"""A store that lives as long as its process: for tests, and for who wants nothing kept."""

from collections.abc import Sequence

from attrs import astuple

from rolemesh.gateway.store.interface import Changes, Hear, Kept, Lose, Meeting, StoreFailed, Usage


class MemoryStore:
    """Keeps in `kept`, by node, and in `used`, by day, key and role. While `failing` says why,
    nothing works."""

    shared = False

    def __init__(self, kept: dict[str, Kept] | None = None) -> None:
        self.kept = {} if kept is None else kept
        self.used: dict[tuple[str, str, str], Usage] = {}
        self.failing = ""
        self._opened = False

    async def open(self, _hear: Hear, _lose: Lose, /) -> Sequence[Kept]:
        self._must_work()
        self._opened = True
        return tuple(self.kept.values())

    async def write(self, changes: Changes) -> None:
        self._must_be_open()
        for node, kept in changes.items():
            if kept is None:
                self.kept.pop(node, None)
            else:
                self.kept[node] = kept

    async def add_usage(self, rows: Sequence[Usage]) -> None:
        self._must_be_open()
        for row in rows:
            place = (row.day, row.key, row.role)
            before = self.used.get(place, Usage(*place))
            self.used[place] = _sum(before, row)

    async def usage(self, since: str) -> Sequence[Usage]:
        self._must_be_open()
        return [row for place, row in sorted(self.used.items()) if row.day >= since]

    async def prune_usage(self, before: str) -> None:
        self._must_be_open()
        self.used = {place: row for place, row in self.used.items() if row.day >= before}

    async def meet(self, _gateway: str, url: str | None) -> Meeting:
        self._must_be_open()
        return Meeting((url,) if url else ())

    async def leave(self, _gateway: str) -> None:
        """Nobody else would know."""

    async def close(self) -> None:
        self._opened = False

    def _must_be_open(self) -> None:
        self._must_work()
        if not self._opened:
            raise StoreFailed("it is not open")

    def _must_work(self) -> None:
        if self.failing:
            self._opened = False
            raise StoreFailed(self.failing)


def _sum(one: Usage, other: Usage) -> Usage:
    figures = zip(astuple(one)[3:], astuple(other)[3:], strict=True)
    return Usage(one.day, one.key, one.role, *(a + b for a, b in figures))
