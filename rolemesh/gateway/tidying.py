"""What is thrown away: nodes that nobody has heard of for a month, and the usage of long ago."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from attrs import define, evolve
from twisted.logger import Logger

from rolemesh.core.errors import Refusal
from rolemesh.gateway.fleet import Fleet
from rolemesh.gateway.store.interface import Kept, Store, StoreFailed
from rolemesh.gateway.store.keeper import Keeper

DAY = 86400.0  # seconds; a node that lives is dated anew so often
NODES = timedelta(days=30)
USAGE = timedelta(days=400)


@define(eq=False)
class Tidying:
    """One round for all gateways of a store. `wall` tells the time of day; `failed` is told why
    the store could not be used."""

    _fleet: Fleet
    _keeper: Keeper
    _store: Store
    _wall: Callable[[], float]
    _failed: Callable[[str], None]

    log = Logger()

    async def do(self) -> None:
        """Date what lives, forget what does not. What fails is for the next round."""
        now = self._wall()
        for kept in self._keeper.kept():
            if self._fleet.lives(kept.node):
                if now - kept.at >= DAY:
                    self._keeper.refresh(evolve(kept, at=now))
            elif now - kept.at >= NODES.total_seconds():
                await self._forget(kept)
        oldest = datetime.fromtimestamp(now, UTC) - USAGE
        try:
            await self._store.prune_usage(oldest.date().isoformat())
        except StoreFailed as failure:
            self._failed(str(failure))

    async def _forget(self, kept: Kept) -> None:
        if self._fleet.get(kept.node) is not None:
            self._fleet.deregister(kept.node)
        try:
            await self._keeper.forget(kept.node)
        except Refusal:  # the keeper goes on trying
            return
        self.log.info("{node} is forgotten: it was away for a month", node=kept.node)
