"""The log of what is refused at the edge, before it is a request."""

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rolemesh.core.errors import Refusal

LINES = 20  # in any `SPAN` seconds; a flood of connections is not to be one of lines
SPAN = 10.0


class RefusalLog:
    """A line a refusal, as long as they are few; of more, the next line has the count."""

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._since = -SPAN
        self._lines = 0
        self._untold = 0

    def __call__(self, refusal: Refusal, request_id: str, address: str) -> None:
        if not self._room():
            self._untold += 1
            return
        self.log.info(
            "refused before it was a request: {code}",
            code=refusal.code,
            **{
                "http.request.id": request_id,
                "http.response.status_code": refusal.status,
                "client.address": address,
                "error.code": refusal.code,
                "rolemesh.refusals.untold": self._untold,
            },
        )
        self._untold = 0

    def _room(self) -> bool:
        now = self._clock.seconds()
        if now - self._since >= SPAN:
            self._since, self._lines = now, 0
        self._lines += 1
        return self._lines <= LINES
