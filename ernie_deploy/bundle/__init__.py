"""A stack with all it needs, in one folder, for a site without internet."""
