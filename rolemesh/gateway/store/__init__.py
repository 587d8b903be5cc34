"""What survives a restart: one narrow interface, and the databases behind it."""
