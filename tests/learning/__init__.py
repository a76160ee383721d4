"""Learning against truth: estimates from simulated logs whose truth is known."""
