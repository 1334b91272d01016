"""Immutable outputs of tasks."""
