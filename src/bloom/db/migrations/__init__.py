"""Alembic environment; the revisions are plain SQL."""
