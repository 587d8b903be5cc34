"""Wing 2: the node agent, which keeps this machine's llama-servers alive and reports them."""
