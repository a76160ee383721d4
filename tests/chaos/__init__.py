"""The campaign: seeded faults at every seam of a batch, and after each run the accounts and the stored set."""
