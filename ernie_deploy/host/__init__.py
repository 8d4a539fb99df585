"""What this host has against what a plan needs: recorded facts, and pure judgements of them."""
