"""What is set in Python and in the reactor for a program that runs for months."""

import gc
import time
from typing import Any

ALLOCATIONS = 20_000  # more objects made than freed, after which Python looks for cycles


def keep_steady(reactor: Any) -> None:
    """Have a reactor that does not run yet measure by a clock that nobody sets.

    Twisted's own measure by the time of day, so that each timer and lease would move with it.
    """
    reactor.seconds = time.monotonic


def collect_less() -> None:
    """Have Python look for cycles more seldom, and not again among what stands by now.

    A request makes hundreds of objects, so that with Python's own settings up to a fifth of its
    time goes into looking at all the others.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS)
