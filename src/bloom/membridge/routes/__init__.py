"""HTTP of the control plane, below the root of its own server."""
