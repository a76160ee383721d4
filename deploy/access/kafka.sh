#!/bin/sh
# Least rights of each of Tally's processes in Kafka. Run it once, as an administrator, on a host with Kafka's tools. Create
# the users and their passwords with your brokers' own means (SCRAM: kafka-configs.sh).
#   KAFKA=kafka:9093 CLIENT_CONFIG=admin.properties TOPIC=interactions GROUP=tally deploy/access/kafka.sh
# CLIENT_CONFIG is a file with the administrator's sasl.jaas.config: a password does not belong in an argument.
set -eu
TOPIC=${TOPIC:-interactions}
LETTERS=${LETTERS:-$TOPIC.dead-letters}
GROUP=${GROUP:-tally}

allow() {
    kafka-acls.sh --bootstrap-server "$KAFKA" --command-config "$CLIENT_CONFIG" --add --force --allow-principal "User:$@"
}

# A worker also writes to the topic: it moves misplaced events to the partition of their key.
allow tally_worker --operation Read --operation Write --operation DescribeConfigs --topic "$TOPIC"
allow tally_worker --operation Write --operation DescribeConfigs --topic "$LETTERS"
allow tally_worker --operation Read --group "$GROUP"

allow tally_collector --operation Write --operation DescribeConfigs --topic "$TOPIC"

# A reader checks the first waiting record of a partition without progress. It shows dead letters, and a replay of them over
# HTTP writes to the topic.
allow tally_reader --operation Read --operation Write --topic "$TOPIC"
allow tally_reader --operation Read --topic "$LETTERS"
allow tally_reader --operation Describe --group "$GROUP"

# For `tally init`, `tally topic expand`, `tally dlq`, `tally replay`, `tally audit` and `tally tail`.
allow tally_admin --operation All --topic "$TOPIC"
allow tally_admin --operation All --topic "$LETTERS"
allow tally_admin --operation All --group "$GROUP"

# For scaling by lag (deploy/k8s/keda).
allow tally_keda --operation Describe --topic "$TOPIC"
allow tally_keda --operation Describe --group "$GROUP"
