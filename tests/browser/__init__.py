"""What needs a browser: `make test-browser`."""
