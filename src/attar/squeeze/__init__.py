"""Squeeze: from real images to the knowledge that a method needs."""
