"""Composition root of the runtime's ASGI application."""
