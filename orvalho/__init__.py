"""Orvalho: a private network of the devices you own, running each other's signed scripts."""

__version__ = "0.1.0"
