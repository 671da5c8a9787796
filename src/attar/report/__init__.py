"""Pages and pictures, drawn from records and images alone. Needs no torch."""
