"""Runs vLLM's own client against a server, attempt by attempt."""
