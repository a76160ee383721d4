"""Code shared by all API modules: callers, rate limits, sizes, and the shape of errors."""
