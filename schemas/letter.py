"""The dead letter: a rejected record's own bytes and headers, and in further headers why it was rejected.

Its origin (topic, partition, offset) is its identity: a crash may write it twice, and the two are one.
"""

PREFIX = "tally-letter-"
REASON, FIELD, MESSAGE = f"{PREFIX}reason", f"{PREFIX}field", f"{PREFIX}message"
NAMESPACE, INTERACTION_ID = f"{PREFIX}namespace", f"{PREFIX}interaction-id"
TOPIC, PARTITION, OFFSET = f"{PREFIX}topic", f"{PREFIX}partition", f"{PREFIX}offset"
APPEND_MS, NULL_KEY = f"{PREFIX}append-ms", f"{PREFIX}null-key"
