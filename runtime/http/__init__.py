"""Code shared by all API modules: callers, rate limits, size limits, and the format of errors."""
