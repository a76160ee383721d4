"""Dead letters: reading, description, outcomes and replay, and their API."""
