"""Analytics: the base views, the reports and their columns, as SQL text. Without I/O; readers run it."""
