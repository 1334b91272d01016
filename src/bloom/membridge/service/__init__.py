"""Use cases; they open the transactions."""
