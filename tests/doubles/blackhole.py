"""A port at which connects neither succeed nor fail: a host that is gone without a word."""

import socket


class BlackHole:
    """Listens with the shortest backlog, fills it, and never accepts.

    Linux drops the SYN of every further connect to a full backlog (unless tcp_abort_on_overflow is
    set), so that it stays unanswered as behind a dead route; nothing is needed but a socket.
    """

    def __init__(self, port: int = 0) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._fill = [self._knock() for _ in range(4)]

    def _knock(self) -> socket.socket:
        knocker = socket.socket()
        knocker.setblocking(False)
        knocker.connect_ex(("127.0.0.1", self.port))
        return knocker

    def close(self) -> None:
        for one in (*self._fill, self._listener):
            one.close()
