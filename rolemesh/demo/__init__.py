"""The demo: a generated model, a launcher with llama-server's argv, a mesh on one machine."""
