"""The campaign: seeded faults at every failpoint of a batch, and after each run the accounts and the stored set."""
