"""Web console: a client of the public HTTP API. It reads no store and imports no other package of Tally."""
