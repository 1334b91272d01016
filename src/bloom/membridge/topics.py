"""What Membridge announces over the hub that the runtime uses, too (`bloom.db.hub`)."""

from hashlib import sha256

LEADERSHIP = "membridge:leadership"
"""A lease is to be written to the bucket."""


def agent_topic(name: str) -> str:
    """There is a job for this agent. A topic has no space in it, an agent's name may."""
    return f"membridge:agent:{sha256(name.encode()).hexdigest()[:16]}"
