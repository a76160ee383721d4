"""Child processes: start, supervision and end."""
