"""Memory sync on the node: carries a project's `claude-mem.db` between machines through an object store.

`push`, `pull`, `restore` are the use cases; `remote` says what decides which version is current: the control plane
(`service_remote`) or, without one, the bucket alone (`bucket_remote`).
"""
