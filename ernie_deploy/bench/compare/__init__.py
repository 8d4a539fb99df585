"""Sets a run beside another, or beside the published figures."""
