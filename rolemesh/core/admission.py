"""A fair queue: keys take turns, and of a key its sessions do, so no fan-out starves another."""

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class FairQueue(Generic[T]):
    """Items that wait, each for a key and a session of that key.

    Iteration gives the order of service: one of each key in turn, and of a key one of each of its
    sessions in turn; within a session, first come first served.
    """

    def __init__(self) -> None:
        self._keys: OrderedDict[Hashable, OrderedDict[Hashable, deque[T]]] = OrderedDict()
        self._places: dict[T, tuple[Hashable, Hashable]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, item: T) -> bool:
        return item in self._places

    def push(self, item: T, key: Hashable, session: Hashable) -> None:
        """Let `item` wait behind those of its session."""
        self._keys.setdefault(key, OrderedDict()).setdefault(session, deque()).append(item)
        self._places[item] = (key, session)

    def served(self, item: T) -> None:
        """Take `item` out, and move its session and its key behind the others."""
        key, session = self._take(item)
        if key in self._keys:
            self._keys.move_to_end(key)
            if session in self._keys[key]:
                self._keys[key].move_to_end(session)

    def gone(self, item: T) -> None:
        """Take `item` out without its having been served; nobody's turn changes."""
        self._take(item)

    def _take(self, item: T) -> tuple[Hashable, Hashable]:
        key, session = self._places.pop(item)
        sessions = self._keys[key]
        sessions[session].remove(item)
        if not sessions[session]:
            del sessions[session]
        if not sessions:
            del self._keys[key]
        return key, session

    def __iter__(self) -> Iterator[T]:
        keys = deque(self._turns(sessions) for sessions in self._keys.values())
        yield from _in_turn(keys)

    @staticmethod
    def _turns(sessions: OrderedDict[Hashable, deque[T]]) -> Iterator[T]:
        return _in_turn(deque(iter(tuple(waiting)) for waiting in sessions.values()))


def _in_turn(sources: deque[Iterator[T]]) -> Iterator[T]:
    while sources:
        source = sources.popleft()
        for item in source:
            yield item
            sources.append(source)
            break
