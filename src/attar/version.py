"""The version of attar."""

__version__ = "0.1.0"
