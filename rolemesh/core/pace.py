"""How fast a backend is, as far as it has shown."""

from attrs import frozen

LASTING = 10.0  # seconds of work that are remembered, the latest weighing most
UNSURE = 0.25  # seconds of work for which what is usual tells as much as what was seen


@frozen
class Pace:
    """Tokens, and the seconds that they took.

    Short work tells more of overhead, and of what went on beside it, than of speed; so two servers
    are thought to differ no more than the time for which they were watched can show.
    """

    tokens: float = 0.0
    seconds: float = 0.0

    def after(self, tokens: float, seconds: float) -> "Pace":
        """The pace with one more piece of work seen."""
        if tokens <= 0 or seconds <= 0:
            return self
        seen = self.seconds + seconds
        kept = min(1.0, LASTING / seen)
        return Pace((self.tokens + tokens) * kept, seen * kept)

    def rate(self, usual: float) -> float:
        """Tokens a second, where `usual` is expected of one that was not watched yet."""
        if self.seen is None:
            return usual
        sure = self.seconds / (self.seconds + UNSURE)
        return float(usual * (self.seen / usual) ** sure)

    @property
    def seen(self) -> float | None:
        """Tokens a second as they were seen; None when nothing was."""
        return self.tokens / self.seconds if self.seconds else None
