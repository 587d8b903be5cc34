"""How a program ends: refused before it runs, stopped, or left with an exit code of ours."""

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NoReturn

from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

OK, NO, LOCKED, MISCONFIGURED = 0, 1, 75, 78

_log = Logger()


def refuse(problems: Iterable[str], code: int = MISCONFIGURED) -> NoReturn:
    """End the program before it runs; each problem is a line on standard error.

    Only for `postOptions` and `makeService`: later, twistd shows a traceback or hangs.
    """
    for problem in problems:
        print(problem, file=sys.stderr)
    raise SystemExit(code)


def leave(code: int) -> NoReturn:
    """End this process now with an exit code of ours, which twistd has no way to give.

    What was logged before is written first, as far as somebody reads it.
    """
    _log.info("the process ends with exit code {code}", code=code, log_last=True)
    os._exit(code)


def stop(reactor: Any) -> None:
    """Stop the reactor, also one that does not run yet or stops already."""
    with suppress(ReactorNotRunning):
        reactor.callWhenRunning(reactor.stop)
