"""Where streams from backends are read: many connections a turn, each in few steps.

For each readable connection Twisted looks up whom it concerns and opens a context for what that one
might log, which costs as much as to hand an event on. Connections in the lane are watched by a
poller of its own, which to the reactor is one reader. Only whether they are read leads here, and
only while they are in the lane: their end, their errors and all that is written stay Twisted's.
"""

import select
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.tcp import Client
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

_MOST = 64 * 1024  # bytes read at once


class Place:
    """One connection's place in the lane; what is read goes to `take`."""

    __slots__ = ("_fd", "_lane", "_tcp", "receive", "take")

    def __init__(self, lane: "Lane", tcp: Any, take: Callable[[bytes], None]) -> None:
        self._lane = lane
        self._tcp = tcp
        self._fd: int = tcp.fileno()
        self.receive: Callable[[int], bytes] = tcp.socket.recv
        self.take = take
        tcp.startReading, tcp.stopReading = self._start, self._stop

    def _start(self) -> None:
        self._lane.watch(self._fd, self)

    def _stop(self) -> None:
        self._lane.ignore(self._fd, self)

    def leave(self) -> None:
        """Be read by the reactor again, if it is to be read at all; nothing when it has left."""
        if self._tcp.__dict__.pop("startReading", None) is None:
            return
        del self._tcp.stopReading
        if self._lane.ignore(self._fd, self):
            self._tcp.startReading()

    def break_off(self) -> None:
        """Close the connection whose reader failed, lest it fail without end."""
        self._tcp.abortConnection()


@implementer(IReadDescriptor)
class Lane:
    """Reads connections for a reactor."""

    log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._places: dict[int, Place] = {}
        self._poller: Any = None

    def enter(self, tcp: Any, take: Callable[[bytes], None]) -> Place | None:
        """Have a connection that is paused read here; None where only Twisted can read it."""
        plain = isinstance(tcp, Client) and not getattr(tcp, "TLS", False)
        return Place(self, tcp, take) if plain and hasattr(select, "epoll") else None

    def watch(self, fd: int, place: Place) -> None:
        """Read a connection whenever it can be read."""
        if fd in self._places:
            return
        if self._poller is None:
            self._poller = select.epoll()
            self._reactor.addReader(self)
        self._poller.register(fd, select.EPOLLIN)
        self._places[fd] = place

    def ignore(self, fd: int, place: Place) -> bool:
        """Read it no longer; whether it was read."""
        if self._places.get(fd) is not place:
            return False
        del self._places[fd]
        self._poller.unregister(fd)
        if not self._places:
            self._reactor.removeReader(self)
            self._poller.close()
            self._poller = None
        return True

    def doRead(self) -> None:
        """Read what can be read, and give what is at its end back to the reactor."""
        places = self._places
        for fd, event in self._poller.poll(0, len(places)):
            place = places.get(fd)
            if place is None:
                continue  # it left while another was read
            try:
                data = place.receive(_MOST) if event == select.EPOLLIN else b""
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            try:
                if data:
                    place.take(data)
                else:
                    place.leave()
            except Exception:
                self.log.failure("what was read could not be handed on")
                place.break_off()

    def fileno(self) -> int:
        """What the reactor watches; -1 while nothing is to be read."""
        return -1 if self._poller is None else int(self._poller.fileno())

    def logPrefix(self) -> str:
        return "lane"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor says so of what it can no longer watch, which an epoll never is."""
