"""Decides what is served and how: a request becomes a plan."""
