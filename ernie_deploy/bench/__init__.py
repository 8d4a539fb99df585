"""The benchmark: cells, vLLM's own client, a journal, checks, and what may be concluded from them."""
