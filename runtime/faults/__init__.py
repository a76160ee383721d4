"""Meaning of each store's errors: a module per store, with one table and one function that reads it.

retry   the store cannot do it now: Unavailable; `retrying` tries again, and nothing is dropped
poison  ClickHouse will never take these rows: RowsRefused; the sink finds out which of them it is
fatal   waiting cannot repair it: Fatal, or StatementRefused for a statement nobody expected to be refused
"""
