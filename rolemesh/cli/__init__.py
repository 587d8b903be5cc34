"""The `rolemesh` command, one file a subcommand."""
