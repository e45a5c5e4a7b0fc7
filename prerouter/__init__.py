"""prerouter: a trainable local pre-router with LLM fallback for teams that call Claude models."""
