#!/bin/sh
# As Apache's image does it: KAFKA_SOME_THING=x in the environment is some.thing=x in server.properties.
set -euf
env | sed -n 's/^KAFKA_\([A-Z_]*\)=/\1=/p' | awk -F= '{ key = tolower($1); gsub("_", ".", key); sub(/^[^=]*=/, ""); print key "=" $0 }' \
    >/tmp/server.properties
echo "log.dirs=/var/lib/kafka/data" >>/tmp/server.properties
run="/opt/kafka/jre/bin/java -Xmx512m -Dlog4j2.configurationFile=/opt/kafka/log4j2.properties -cp /opt/kafka/jars/*"
[ -e /var/lib/kafka/data/meta.properties ] \
    || $run kafka.tools.StorageTool format --cluster-id "${CLUSTER_ID:-5L6g3nShT-eMCtK--X86sw}" --config /tmp/server.properties
exec $run kafka.Kafka /tmp/server.properties
