"""Ways to run Tally: embedded stack, images, Kubernetes, monitoring, access rights."""
