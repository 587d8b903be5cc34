"""A store that lives as long as its process: for tests, and for who wants nothing kept."""

from collections.abc import Sequence

from rolemesh.gateway.store.interface import Changes, Hear, Kept, Lose, StoreFailed


class MemoryStore:
    """Keeps in `kept`, by node. While `failing` says why, nothing works."""

    shared = False

    def __init__(self, kept: dict[str, Kept] | None = None) -> None:
        self.kept = {} if kept is None else kept
        self.failing = ""
        self._opened = False

    async def open(self, _hear: Hear, _lose: Lose, /) -> Sequence[Kept]:
        self._must_work()
        self._opened = True
        return tuple(self.kept.values())

    async def write(self, changes: Changes) -> None:
        self._must_work()
        if not self._opened:
            raise StoreFailed("it is not open")
        for node, kept in changes.items():
            if kept is None:
                self.kept.pop(node, None)
            else:
                self.kept[node] = kept

    async def close(self) -> None:
        self._opened = False

    def _must_work(self) -> None:
        if self.failing:
            self._opened = False
            raise StoreFailed(self.failing)
