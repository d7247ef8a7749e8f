"""Switchhook's call engine."""

__version__ = "0.1.0"
