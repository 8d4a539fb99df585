"""Runs the very file that `render` makes, on a machine without a GPU, and says what that proved."""
