"""The collector: takes interactions in over HTTP, and answers once Kafka has them."""
