"""twistd as a child in the foreground: `python -m rolemesh.demo.child PARENT_PID SERVICE OPTION…`.

It has a session of its own, so that Ctrl-C reaches its parent alone, who then stops it in order;
and it is told to stop when that parent dies, however it dies.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, service: list[str]) -> None:
    """Run `twistd -n SERVICE OPTION…` for as long as the parent lives."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it was gone before the order above could take hold
        return
    from twisted.scripts import twistd

    sys.argv = ["twistd", "-n", *service]
    twistd.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
