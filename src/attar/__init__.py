"""attar distils large image datasets into small synthetic ones, and trains and judges models on them."""

__version__ = "0.1.0"
