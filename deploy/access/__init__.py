"""What each process may do in each store."""
