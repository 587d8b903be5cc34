"""Doubles of llama-server as processes of their own, which obey while they run."""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, Any

from tests.real.harness import DEADLINE


class Double:
    """One double on a port of 127.0.0.1."""

    def __init__(self, *options: object) -> None:
        argv = [sys.executable, "-m", "tests.doubles.fakellama", "--control", *map(str, options)]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        self.port = int(self._said())
        self.url = f"http://127.0.0.1:{self.port}"

    def order(self, line: str) -> None:
        """Give it an order; `tests.doubles.fakellama` lists them."""
        self._pipe(self._process.stdin).write(line + "\n")
        self._pipe(self._process.stdin).flush()

    def seen(self) -> dict[str, Any]:
        """What it has seen so far: calls, outcomes, what is open and busy."""
        self.order("calls")
        seen: dict[str, Any] = json.loads(self._said())
        return seen

    def close(self) -> None:
        """End it."""
        self._pipe(self._process.stdin).close()
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._pipe(self._process.stdout).close()

    def _said(self) -> str:
        return self._pipe(self._process.stdout).readline()

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None  # both are asked for above
        return pipe


def close_all(doubles: Sequence[Double]) -> None:
    for double in doubles:
        double.close()
