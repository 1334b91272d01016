"""Typed calls of SQL, a module and its statements per use case. None commits."""
