"""Typed HTTP calls of the runtime's wire, used by the CLI and the worker."""
