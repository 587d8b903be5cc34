"""All gateways of this node: those that its file names, and those of which these tell."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rolemesh.core.gateways import Learned, hear, spelled
from rolemesh.core.local import GatewayStanding
from rolemesh.core.report import Accepted
from rolemesh.node.link import Link

HOLD = 5.0  # seconds that the first report may wait for servers that run already


class Orders(Protocol):
    """By which a gateway's orders come; `node.command_stream.CommandStream` is one."""

    def startService(self) -> object:
        """Listen."""

    def stopService(self) -> object:
        """Listen no more."""


@frozen
class Contact:
    """One gateway: it is told by its link, and orders by its stream."""

    link: Link
    orders: Orders


class Remembering(Protocol):
    """Who keeps what is learned; `node.book.Book` does."""

    def load(self) -> list[str]:
        """What was learned in an earlier life."""

    def keep(self, learned: Sequence[str]) -> None:
        """Have it for the next one."""


class Reporter:
    """Tells every gateway, and learns of others from what they answer.

    `contact` makes the contact to a URL, whose good answers go to the function that it is given.
    Nothing is told before `settled`, as what runs already would then seem to be gone; but not
    longer than `HOLD`.
    """

    _log = Logger()

    def __init__(
        self,
        node: str,
        configured: Sequence[str],
        contact: Callable[[str, Callable[[Accepted], None]], Contact],
        clock: IReactorTime,
        book: Remembering,
        settled: Callable[[], bool] = lambda: True,
    ) -> None:
        self._node = node
        self._configured = {spelled(url): url for url in configured}
        self._contact = contact
        self._clock = clock
        self._book = book
        self._settled = settled
        self._contacts: dict[str, Contact] = {}
        self._learned: Learned = {}
        self._words: dict[str, str] = {}  # by which gateways name themselves
        self._doubles: set[str] = set()
        self._holding: IDelayedCall | None = None

    def standings(self) -> list[GatewayStanding]:
        """How the node stands with each gateway."""
        found = self._contacts.items()
        return [contact.link.about(learned=url in self._learned) for url, contact in found]

    def start(self) -> None:
        """Begin to tell every gateway."""
        self._holding = self._clock.callLater(HOLD, self._begin)
        self.changed()

    def changed(self) -> None:
        """Something is new on this node."""
        if self._holding is not None and self._settled():
            self._holding.cancel()
            self._begin()
        for contact in tuple(self._contacts.values()):
            contact.link.changed()

    async def stop(self, farewell: bool = True) -> None:
        """Leave every gateway, saying so or not; takes two seconds at most."""
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None
        contacts, self._contacts = self._contacts, {}
        await gatherResults([_left(each, self._node, farewell) for each in contacts.values()])

    def _begin(self) -> None:
        self._holding = None
        self._learned = dict.fromkeys(map(spelled, self._book.load()))
        for url in (*self._configured, *self._learned):
            self._meet(url)

    def _meet(self, url: str) -> None:
        written = self._configured.get(url, url)
        self._contacts[url] = contact = self._contact(written, partial(self._heard, url))
        contact.orders.startService()
        contact.link.start()

    def _heard(self, url: str, accepted: Accepted) -> None:
        """Another gateway may be told of, or one that is known already by another URL."""
        if url not in self._contacts:
            return
        self._words[url] = accepted.gateway
        self._drop_doubles(accepted.gateway)
        told = [each for each in accepted.gateways if spelled(each) not in self._doubles]
        now = self._clock.seconds()
        self._follow(hear(self._learned, url, told, tuple(self._configured), now), url)

    def _drop_doubles(self, word: str) -> None:
        """Of the URLs of one gateway the first is used; of two streams it would end the older."""
        same = [url for url in self._contacts if word and self._words.get(url) == word]
        for url in same[1:]:
            if url in self._learned:
                self._doubles.add(url)
                rest = {each: since for each, since in self._learned.items() if each != url}
                self._learned = rest
                self._book.keep(tuple(rest))
                self._leave(url, farewell=False)

    def _follow(self, learned: Learned, teller: str) -> None:
        before, self._learned = self._learned, learned
        if learned.keys() == before.keys():
            return
        self._book.keep(tuple(learned))
        for url in learned.keys() - before.keys():
            self._log.info("{gateway}: told of by {teller}", gateway=url, teller=teller)
            self._meet(url)
        for url in before.keys() - learned.keys():
            self._log.info("{gateway}: nobody tells of it any more", gateway=url)
            self._leave(url, farewell=True)

    def _leave(self, url: str, farewell: bool) -> None:
        _left(self._contacts.pop(url), self._node, farewell)


def _left(contact: Contact, node: str, farewell: bool) -> Deferred[Any]:
    maybeDeferred(contact.orders.stopService)
    return Deferred.fromCoroutine(contact.link.stop(node, farewell))
