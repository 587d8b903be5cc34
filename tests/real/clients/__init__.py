"""Clients that people use, each with nothing changed but its base URL and its model."""
