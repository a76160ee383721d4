"""Everything that puts events on Kafka: the Python producer, the collector, importers and the simulator."""
