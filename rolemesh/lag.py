"""How long the reactor was held up, and by whom."""

import sys
import threading
import traceback

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

BEAT = 0.05  # seconds between two signs of life
LONGEST = 0.1  # seconds without one, after which it is noted where the reactor is
HOPELESS = 10.0  # seconds after which that is logged although the reactor has not come back
SELDOM = 10.0  # seconds between two lines
DEPTH = 12  # of the frames that are shown, the innermost


class LagWatch(Service):
    """Logs when the reactor is held up for more than `LONGEST` seconds, with its stack.

    The reactor gives signs of life; a thread looks whether they come, and notes the stack when
    they do not. What code that keeps the interpreter's lock does is noted too late to be seen: the
    line has the time alone then. `worst` is the longest hold-up in seconds.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._beating = LoopingCall(self._beat)
        self._beating.clock = clock
        self._thread = 0
        self._last = 0.0
        self._seen = ""
        self._told = -SELDOM
        self._untold = 0
        self._over = threading.Event()
        self.worst = 0.0

    def startService(self) -> None:
        super().startService()
        self._thread = threading.get_ident()
        self._last = self._clock.seconds()
        self._beating.start(BEAT)
        threading.Thread(target=self._watch, name="lag", daemon=True).start()

    def stopService(self) -> None:
        super().stopService()
        self._over.set()
        self._beating.stop()

    def _beat(self) -> None:
        now = self._clock.seconds()
        late = now - self._last - BEAT
        self._last = now
        if late > LONGEST:
            self.worst = max(self.worst, late)
            self._tell(now, late)
        self._seen = ""

    def _tell(self, now: float, late: float) -> None:
        if now - self._told < SELDOM:
            self._untold += 1
            return
        self.log.warn(
            "the reactor was held up for {seconds:.2f} s, and {untold} times before without a line",
            seconds=late,
            untold=self._untold,
            **{"rolemesh.lag.seconds": round(late, 3), "rolemesh.lag.stack": self._seen},
        )
        self._told, self._untold = now, 0

    def _watch(self) -> None:
        while not self._over.wait(LONGEST / 2):
            last = self._last
            held_up = self._clock.seconds() - last - BEAT
            if held_up > LONGEST and not self._seen:
                self._note(last)
            elif held_up > HOPELESS:
                self._tell_hopeless(held_up)

    def _note(self, last: float) -> None:
        stack = stack_of(self._thread)
        if self._last == last:  # else it came back meanwhile, and the stack is of other work
            self._seen = stack

    def _tell_hopeless(self, held_up: float) -> None:
        self.log.critical(
            "the reactor has been held up for {seconds:.0f} s and has not come back",
            seconds=held_up,
            **{"rolemesh.lag.stack": stack_of(self._thread)},
        )
        self._over.wait(HOPELESS)


def stack_of(thread: int) -> str:
    """Where a thread is now, the innermost frame last; nothing when it is gone."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return ""
    return "".join(traceback.format_stack(frame, DEPTH))
