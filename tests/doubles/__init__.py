"""Doubles of what RoleMesh talks to: a llama-server that fails in every way, bad networks."""
