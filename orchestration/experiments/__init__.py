"""Experiments with numbers to reach."""
