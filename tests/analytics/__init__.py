"""Analytics against truth: simulated worlds whose expected metrics are known."""
