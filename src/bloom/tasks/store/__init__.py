"""Typed calls of this slice's SQL. They receive a connection and never commit."""
