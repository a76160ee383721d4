"""Meaning of each store's errors: a module per store, with one table and one function that reads it.

retry   the store cannot do it now: Unavailable; `retrying` repeats it, and nothing is dropped
poison  ClickHouse will never store these rows: RowsRefused; the sink finds the row that is the cause
fatal   waiting cannot repair it: Fatal, or StatementRefused for an unexpectedly refused statement
"""
