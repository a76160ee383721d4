"""What every HTTP part shares: who asks, how often, how large, and how errors look."""
