"""The edges to files, servers and the terminal: bounded reads, cleaned and redacted output."""
