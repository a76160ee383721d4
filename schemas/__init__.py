"""Interactions: fields, model, validator, identity, dedup rule, wire format, tables and views. No I/O."""
