"""Wing 1: the gateway, which serves roles to OpenAI clients."""
