"""Ground: pure decisions. No reactor, clock, log, file, socket or randomness; all are arguments."""
