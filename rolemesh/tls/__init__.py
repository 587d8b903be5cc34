"""TLS for both programs: what a listener shows, and whom a caller trusts."""
