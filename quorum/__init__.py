"""Shared leaf of Quorum: the objects that flow between stages, the errors, the version. Imports no sibling."""

__version__ = "0.1.0"
