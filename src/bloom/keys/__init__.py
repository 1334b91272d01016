"""Named keys: who may call the runtime, and as what."""
