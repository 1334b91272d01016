"""The control plane of Membridge: projects, nodes, leadership, versions of the session memory, agents and their jobs."""
