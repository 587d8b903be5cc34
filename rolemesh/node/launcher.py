"""Stands between the agent and a program: `python -I -S launcher.py AGENT_PID PROGRAM ARG…`.

It gives the program a session of its own and a death that follows the agent's, then becomes it.
With 0 in the place of the agent's pid the program lives on when the agent ends.
Nothing but the standard library is at hand here, and nothing of RoleMesh is imported.
"""

import ctypes
import errno
import os
import resource
import signal
import sys

NOT_RUN = "rolemesh launcher: cannot run: "
CANNOT_RUN, ORPHANED = 127, 125

_PR_SET_PDEATHSIG = 1


def main(agent: int, command: list[str]) -> int:
    """Become the command; returns an exit code only where that is impossible."""
    os.setsid()
    if agent:
        _die_with_parent()
    if agent not in (0, os.getppid()):  # it was gone before the order above could take hold
        return ORPHANED
    _leave_no_trace_of_python()
    try:
        os.execvp(command[0], command)
    except OSError as problem:
        name = errno.errorcode.get(problem.errno or 0, "unknown error")
        print(f"{os.path.basename(command[0])}: {problem.strerror}", file=sys.stderr)
        print(f"{NOT_RUN}{name}", file=sys.stderr, flush=True)
        return CANNOT_RUN


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _leave_no_trace_of_python() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec keeps that
        signal.signal(number, signal.SIG_DFL)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
