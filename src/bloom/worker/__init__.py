"""The worker daemon: a pure HTTP client that runs leased tasks as child processes."""
