"""Commands on their way to nodes, and what came of them."""

from collections import OrderedDict
from collections.abc import Callable

from attrs import define, field
from msgspec.structs import replace
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rolemesh.core.commands import REMEMBERED, Command, Result, is_fresh
from rolemesh.core.errors import Refusal
from rolemesh.core.report import encode
from rolemesh.gateway.event_stream import EventStream

KEPT = 600.0  # seconds that a command waits for its node
SILENCE = 30.0  # seconds without a part, after which nobody waits for the next one
MOST_WAITING = 32  # commands of one node


@define(eq=False)
class Order:
    """One command until it is answered; each part of an answer goes to `hear`, if there is one."""

    node: str
    command: Command
    hear: Callable[[Result], None] | None = None
    timer: IDelayedCall = field(init=False)
    part: int = -1
    waiting: list[Deferred[Result]] = field(factory=list)


class Orders(Service):
    """What each node was told to do and has not yet answered.

    A node that connects is told all of it, so what was lost with a connection comes again; a node
    that has done it already only answers again.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._orders: dict[tuple[str, str], Order] = {}
        self._answered: OrderedDict[tuple[str, str], Result] = OrderedDict()
        self._streams: dict[str, EventStream] = {}

    def stopService(self) -> None:
        super().stopService()
        for stream in tuple(self._streams.values()):
            stream.end()
        for order in tuple(self._orders.values()):
            self._drop(order)

    def connected(self, node: str) -> bool:
        """Whether the node's agent hears us now."""
        return node in self._streams

    def ask(self, node: str, command: Command) -> Deferred[Result]:
        """Have a node do it. Fires with what came of it; a cancel leaves the command standing, and
        the same id asks for the same doing.

        :raises Refusal: rate_limit_exceeded when too many wait for the node.
        """
        known = self._answered.get((node, command.id))
        if known is not None:
            return succeed(known)
        order = self._orders.get((node, command.id)) or self._give(Order(node, command))
        answered: Deferred[Result] = Deferred(order.waiting.remove)
        order.waiting.append(answered)
        return answered

    def follow(self, node: str, command: Command, hear: Callable[[Result], None]) -> Order:
        """Have a node tell something in parts, until `leave` says that it is enough; a node that
        falls silent is heard as one that says so.

        :raises Refusal: as `ask`.
        """
        return self._give(Order(node, command, hear))

    def leave(self, order: Order) -> None:
        """Nobody waits for more of it."""
        if self._orders.get((order.node, order.command.id)) is order:
            self._drop(order)

    def attach(self, node: str, stream: EventStream) -> None:
        """A node's agent hears from now on, by this stream alone."""
        before = self._streams.pop(node, None)
        if before is not None:
            before.end()
        self._streams[node] = stream
        for order in self._of(node):
            stream.send(encode(order.command))

    def detach(self, node: str, stream: EventStream) -> None:
        """It hears no more by this stream."""
        if self._streams.get(node) is stream:
            del self._streams[node]

    def answer(self, node: str, id: str, result: Result) -> bool:
        """Take in what a node answers; whether anybody waits for more."""
        order = self._orders.get((node, id))
        if order is None:
            return False
        if not is_fresh(result.part, order.part) and result.at in ("", order.command.after):
            return True
        order.part = result.part
        order.command = replace(order.command, after=result.at)  # where its next life goes on
        if order.hear is None or not result.more:
            self._settle(order, result)
        else:
            order.timer.reset(SILENCE)
            order.hear(result)
        return (node, id) in self._orders

    def _give(self, order: Order) -> Order:
        node, command = order.node, order.command
        if len(self._of(node)) >= MOST_WAITING:
            message = f"{MOST_WAITING} commands wait for '{node}' already: see why it is silent"
            raise Refusal("rate_limit_exceeded", message, retry_after=10)
        patience = SILENCE if order.hear else KEPT
        order.timer = self._clock.callLater(patience, self._expire, order)
        self._orders[node, command.id] = order
        if node in self._streams:
            self._streams[node].send(encode(command))
        return order

    def _of(self, node: str) -> list[Order]:
        return [order for order in self._orders.values() if order.node == node]

    def _settle(self, order: Order, result: Result) -> None:
        if order.hear is None:
            self._answered[order.node, order.command.id] = result
            if len(self._answered) > REMEMBERED:
                self._answered.popitem(last=False)
        self._close(order, result)

    def _close(self, order: Order, result: Result) -> None:
        self._drop(order)
        if order.hear is not None:
            order.hear(result)
        while order.waiting:
            order.waiting.pop(0).callback(result)

    def _expire(self, order: Order) -> None:
        self._close(order, Result(done=False, message=f"'{order.node}' does not answer"))

    def _drop(self, order: Order) -> None:
        del self._orders[order.node, order.command.id]
        if order.timer.active():
            order.timer.cancel()
