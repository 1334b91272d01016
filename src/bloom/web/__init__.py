"""Everything between HTTP and the slices: authentication, errors, limits, Server-Sent Events."""
