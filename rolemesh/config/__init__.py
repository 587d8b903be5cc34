"""YAML text to frozen settings; every problem at once, each with its file, line and column."""
