"""Tasks and the leases under which workers run them."""
