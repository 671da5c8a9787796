"""Augmentation that is drawn, applied and replayed apart: operations, crops, views."""
