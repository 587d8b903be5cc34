"""Small programs, one a client: each asks a server and prints what it got as JSON."""
