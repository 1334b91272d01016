"""HTTP of tasks and leases: requests in, service calls, answers out."""
