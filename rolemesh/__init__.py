"""RoleMesh: ask for a role, get the right llama-server."""

__version__ = "0.1.0"
