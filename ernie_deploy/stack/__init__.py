"""Runs a rendered stack through Docker Compose and reads how it is."""
