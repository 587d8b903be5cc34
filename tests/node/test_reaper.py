"""Processes that were left to us."""

import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.real.harness import need

INHERITS = """
import ctypes, os, subprocess, sys, time
from twisted.internet import reactor
from rolemesh.node import proc, reaper
from rolemesh.node.logs import LineCutter
from rolemesh.node.process import Child, run_child

ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # orphans become ours
reaper.BEAT = 0.1
service = reaper.Reaper(reactor)
service.startService()
own = []
shell = "sleep 0.3 & echo $!"
orphan = int(subprocess.run(["sh", "-c", shell], stdout=subprocess.PIPE, check=True).stdout)

def look():
    found = proc.process(orphan)
    if found is None and own:
        print("reaped", own[0].code)
        reactor.stop()
    else:
        reactor.callLater(0.05, look)

def begin():
    cutter = LineCutter(lambda _: None)
    child = Child(cutter, cutter, own.append)
    run_child(reactor, child, ["sh", "-c", "exit 7"], os.environ)
    while not proc.process(child.pid).ended:
        time.sleep(0.01)
    reaper._reap()
    look()

reactor.callWhenRunning(begin)
reactor.callLater(60, reactor.stop)
reactor.run()
"""


class ReaperTests(SynchronousTestCase):
    def test_A33_what_others_left_is_reaped_and_our_own_is_not_taken_away(self) -> None:
        """As the first process of a container: no zombie stays, and our child's code is known."""
        need(sys.platform == "linux", "Linux")
        done = subprocess.run(
            [sys.executable, "-c", INHERITS], capture_output=True, text=True, check=False
        )
        self.assertEqual((done.stdout.strip(), done.returncode), ("reaped 7", 0), done.stderr)

    def test_A33_elsewhere_nothing_is_taken(self) -> None:
        """Where orphans go to another, all children are our own."""
        from rolemesh.node.reaper import inherits_orphans

        self.assertEqual(inherits_orphans(), os.getpid() == 1)
