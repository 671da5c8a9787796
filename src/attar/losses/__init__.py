"""Pure functions that two methods share."""
