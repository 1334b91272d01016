"""Everything between HTTP and the slices: errors, keys, limits, streams, pages of lists."""
