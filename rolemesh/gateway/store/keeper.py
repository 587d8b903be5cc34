"""Makes what nodes have said durable, and brings it back after a restart.

The gateway serves from memory alone. Here stands what the store must come to say; whatever troubles
the store has, that is written as soon as it can be.
"""

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rolemesh.core.errors import Refusal
from rolemesh.gateway.store.interface import Changes, Kept, Store, StoreFailed

RETRY = 1.0  # seconds until a store that failed is tried again
GATHER = 1.0  # seconds in which the changes of heartbeats become one write
PATIENCE = 2.5  # seconds that the gateway's start waits for what was kept
SAY_EVERY = 60.0


class Keeper:
    """Between the gateway's memory and its store.

    `restore` takes in what was heard in an earlier life, or by another gateway; `drop` lets go of a
    node that left another gateway. `trouble` says, for the log, why nothing can be kept now; it is
    empty while all is well.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        store: Store,
        restore: Callable[[Kept], Coroutine[Any, Any, None]],
        drop: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._store = store
        self._restore = restore
        self._drop = drop
        self._wanted: dict[str, Kept | None] = {}
        self._durable: dict[str, Kept] = {}
        self._dirty: set[str] = set()
        self._late: set[str] = set()  # what heartbeats changed, to be dirty soon
        self._waiting: list[Deferred[None]] = []  # for the next write
        self._resting: list[Deferred[None]] = []  # for the end of the work under way
        self._working = False
        self._opened = False
        self._timer: IDelayedCall | None = None
        self._said = float("-inf")
        self.trouble = ""

    async def start(self) -> None:
        """Open the store and restore what it holds; a store in trouble is not waited for."""
        self._begin()
        with suppress(TimeoutError):
            await self._rest().addTimeout(PATIENCE, self._clock)

    async def stop(self) -> None:
        """Write what is left to be written, and close."""
        if not self.trouble:
            self._begin()
        await self._rest()
        if self._timer is not None:
            self._timer.cancel()
        await self._store.close()

    async def keep(self, kept: Kept) -> None:
        """Return once it is durable.

        :raises Refusal: `state_unavailable` when that cannot be done now; it will be done as soon
            as it can be.
        """
        if self._want(kept.node, kept):
            await self._written(kept.node)

    async def forget(self, node: str) -> None:
        """Return once the node is durably forgotten; raises as `keep`."""
        if self._want(node, None) or self.trouble:
            await self._written(node)

    def keep_soon(self, kept: Kept) -> None:
        """Write it within a second, if it says anything new."""
        if self._want(kept.node, kept):
            self._late.add(kept.node)
            self._wake(GATHER)

    def kept(self) -> tuple[Kept, ...]:
        """All that is durable."""
        return tuple(self._durable.values())

    def refresh(self, kept: Kept) -> None:
        """Write it within a second, although nothing but its date is new."""
        self._wanted[kept.node] = kept
        self._late.add(kept.node)
        self._wake(GATHER)

    def holds(self, node: str) -> bool:
        """Whether a node is kept, whatever has become of it in memory."""
        return node in self._durable

    def _want(self, node: str, kept: Kept | None) -> bool:
        """Whether that is still to be written."""
        self._wanted[node] = kept
        return node in self._dirty or self._durable.get(node) != kept

    async def _written(self, node: str) -> None:
        self._dirty.add(node)
        if not self.trouble:
            written: Deferred[None] = Deferred()
            self._waiting.append(written)
            self._begin()
            with suppress(StoreFailed):
                return await written
        raise Refusal(
            "state_unavailable",
            f"The gateway acts on this about '{node}', but cannot write it down now, so that a"
            " restart would forget it. Send it again.",
            retry_after=5.0,
        )

    def _wake(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(seconds, self._woken)

    def _woken(self) -> None:
        self._timer = None
        self._begin()

    def _begin(self) -> None:
        self._dirty |= self._late
        self._late.clear()
        if not self._working:
            self._working = True
            Deferred.fromCoroutine(self._work())

    def _rest(self) -> Deferred[None]:
        """Fires once nothing is under way."""
        rest: Deferred[None] = Deferred()
        self._resting.append(rest)
        if not self._working:
            _fire(self._resting)
        return rest

    async def _work(self) -> None:
        try:
            if not self._opened:
                await self._open()
            while self._dirty:
                await self._write()
        except StoreFailed as failure:
            self._failed(str(failure))
        except Exception:
            self.log.failure("writing the state failed")
            self._failed("a bug, told above")
        else:
            self._well()
        finally:
            self._working = False
            _fire(self._resting)

    async def _open(self) -> None:
        """Learn what is kept. What this life has heard goes before what an earlier one heard; what
        another gateway wrote meanwhile goes before what was durable here already."""
        kept = await self._store.open(self._hear, self.lost)
        before, self._durable = self._durable, {each.node: each for each in kept}
        self._opened = True
        ours = {
            node
            for node, wanted in self._wanted.items()
            if not self._store.shared or wanted != before.get(node)
        }
        for node in {*before, *self._durable} - ours:
            self._follow(node)
        self._dirty = {node for node in ours if self._wanted[node] != self._durable.get(node)}

    def _hear(self, changes: Changes) -> None:
        """Another gateway wrote; where we have news as well, ours is the last word."""
        for node, kept in changes.items():
            if node not in self._dirty | self._late:
                self._remember(node, kept)
                self._follow(node)

    def lost(self, why: str) -> None:
        """The store failed whoever used it, and is to be opened again."""
        if self._opened:
            self._failed(why)

    def _follow(self, node: str) -> None:
        """Bring memory to what the store says of a node."""
        kept = self._durable.get(node)
        if self._wanted.get(node) == kept:
            return
        if kept is None:
            del self._wanted[node]
            self._drop(node)
        else:
            self._wanted[node] = kept
            self._bring_back(kept)

    def _bring_back(self, kept: Kept) -> None:
        def failed(failure: Any) -> None:
            self.log.failure("{node} could not be restored", failure, node=kept.node)

        Deferred.fromCoroutine(self._restore(kept)).addErrback(failed)

    async def _write(self) -> None:
        """Write all at once, so that many wait for one disk."""
        waiting, self._waiting = self._waiting, []
        changes = {node: self._wanted.get(node) for node in self._dirty}
        try:
            await self._store.write(changes)
        except BaseException:
            self._waiting += waiting
            raise
        for node, kept in changes.items():
            self._became_durable(node, kept)
        _fire(waiting)

    def _remember(self, node: str, kept: Kept | None) -> None:
        if kept is None:
            self._durable.pop(node, None)
        else:
            self._durable[node] = kept

    def _became_durable(self, node: str, kept: Kept | None) -> None:
        self._remember(node, kept)
        if self._wanted.get(node) is kept:
            self._dirty.discard(node)
            if kept is None:
                self._wanted.pop(node, None)

    def _failed(self, why: str) -> None:
        """Serving goes on; who waits is told, and the store is tried again."""
        self._opened = False
        self.trouble = why
        if self._clock.seconds() - self._said >= SAY_EVERY:
            self._said = self._clock.seconds()
            self.log.error("registrations cannot be kept: {why}", why=why)
        _fire(self._waiting, StoreFailed(why))
        self._wake(RETRY)

    def _well(self) -> None:
        if self.trouble:
            self.log.info("registrations are kept again")
        self.trouble = ""
        _fire(self._waiting)


def _fire(waiting: list[Deferred[None]], failure: Exception | None = None) -> None:
    """Empty the list; those that were cancelled meanwhile hear nothing."""
    while waiting:
        each = waiting.pop(0)
        if each.called:
            continue
        if failure is None:
            each.callback(None)
        else:
            each.errback(failure)
