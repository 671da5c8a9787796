"""A run as a whole: its settings, its stages in order, what it will cost."""
