"""What `bloom up` can be told."""

import os

from pydantic import Field

from bloom.membridge.settings import MembridgeSettings


class UpSettings(MembridgeSettings):
    """The settings of the runtime and of Membridge, and the slots of the worker beside them (32 at most, as on the wire)."""

    # One per core: a process uses one. Beyond four PostgreSQL needs the cores more.
    processes: int = Field(
        default_factory=lambda: min(os.cpu_count() or 1, 4), ge=1, le=64, validation_alias="BLOOM_PROCESSES"
    )
    up_slots: int = Field(default=2, ge=0, le=32, validation_alias="BLOOM_UP_SLOTS")
