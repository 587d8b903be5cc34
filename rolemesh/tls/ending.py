"""When the certificates in use end, and who hears of it in time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import define, field, frozen
from cryptography import x509
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

SOON = timedelta(days=21)  # before its end a certificate is warned about
REMIND = 86400.0  # seconds between two such lines in the log
_OF_THE_SYSTEM = 8  # a file with more CAs is the system's, and they are not ours to renew


@frozen
class Ending:
    """When something ends: a file, or with `node` what that node shows. `then` says what happens,
    and what to do."""

    kind: str
    place: str
    at: datetime
    then: str
    node: bool = False

    @property
    def what(self) -> str:
        """What is not told is where the file is."""
        return f"{self.kind} {Path(self.place).name}"


@define(eq=False)
class Endings:
    """What ends some day of all that is in use. `now` is the time of day.

    What ends soon is told in the log as it is noted, and again once a day for as long as it is.
    """

    _clock: IReactorTime
    _now: Callable[[], float]
    _noted: dict[str, tuple[Ending, float]] = field(factory=dict)

    log = Logger()

    def note(self, *endings: Ending) -> None:
        """They are in use now, each in the stead of what was in its place before."""
        for ending in endings:
            self._note(ending)

    def _note(self, ending: Ending) -> None:
        known, told = self._noted.get(ending.place, (None, 0.0))
        now = self._clock.seconds()
        if known == ending and abs(now - told) < REMIND:
            return
        self._noted[ending.place] = ending, now
        if ends := self._when(ending):
            self.log.warn(
                "{kind} {path} {ends}: {then}",
                kind=ending.kind,
                path=ending.place,
                ends=ends,
                then=ending.then,
            )

    def soon(self, there: Callable[[str], object] = bool) -> Sequence[str]:
        """What ends soon, of ours and of those nodes that are `there`; each in a few words."""
        noted = (ending for ending, _ in self._noted.values())
        found = (each for each in noted if not each.node or there(each.place))
        return [f"{each.what} {ends}" for each in found if (ends := self._when(each))]

    def _when(self, ending: Ending) -> str:
        left = ending.at - datetime.fromtimestamp(self._now(), UTC)
        if left >= SOON:
            return ""
        return "has expired" if left < timedelta() else f"expires in {left.days} days"


def of_chain(path: Path, chain: Iterable[x509.Certificate], then: str) -> Ending:
    """The end of what is shown to others: of the first of its certificates that ends."""
    return Ending("certificate", str(path), _first(chain), then)


def of_authorities(path: Path, found: Sequence[x509.Certificate], then: str) -> Iterator[Ending]:
    """The end of a private CA; of two with one name, the one that is to follow the other counts."""
    if len(found) <= _OF_THE_SYSTEM:
        latest = {each.subject: each for each in sorted(found, key=_end)}
        yield Ending("CA", str(path), _first(latest.values()), then)


def _first(certificates: Iterable[x509.Certificate]) -> datetime:
    return min(map(_end, certificates))


def _end(certificate: x509.Certificate) -> datetime:
    return certificate.not_valid_after_utc
