"""What a run leaves on disk: records, rows and the figures derived from them."""
