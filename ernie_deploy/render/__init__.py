"""Writes a plan down: a compose file, a folder, Kubernetes manifests."""
