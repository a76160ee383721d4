"""Infrastructure: connections, settings, errors, retry, logs, metrics, traces and the reading of the log."""
