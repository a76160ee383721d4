"""Collector: accepts interactions over HTTP, and responds once Kafka has acknowledged them."""
