"""What every slice may use: errors, clock, ids, settings, logging."""
