"""Reads of stored events: lookup, lists, outcomes, reports, audit, and their API. Deletion is a part of it."""
