"""Learning from events: propensities, judgments, training sets and evaluation."""
