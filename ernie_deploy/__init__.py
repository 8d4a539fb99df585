"""The ERNIE 4.5 recipes, compiled into vLLM stacks that you own as plain compose files."""

__version__ = "0.1.0"
