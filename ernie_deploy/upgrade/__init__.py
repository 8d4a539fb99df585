"""A stack's folder brought to another rendering and back: the user's edits stand, and no kill leaves half of it."""
