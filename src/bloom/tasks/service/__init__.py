"""Use cases of tasks and leases. They open the transaction; no HTTP here, no object-store call inside a transaction."""
