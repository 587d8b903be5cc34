"""Tests of RoleMesh, by trial."""

import sys

if "twisted.trial" in sys.modules:  # not in a program that a test starts
    from hypothesis import HealthCheck, settings

    # How fast a machine is decides nothing, and a run tells the same as the one before.
    steady = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("steady", steady)
    settings.load_profile("steady")
