"""The version of what workers and the runtime say to each other.

It grows with a change that the other side has to know of; a new optional field is none. A caller names the version it
speaks in the header of each call, none stands for 1; the runtime names in each answer the versions that it understands.
"""

HEADER = "X-Bloom-Protocol"

PROTOCOL = 1
"""What this release speaks."""

OLDEST = 1
"""The oldest version that the runtime of this release still understands."""
