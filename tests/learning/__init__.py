"""Learning against truth: propensities of simulated logs whose examination is known."""
