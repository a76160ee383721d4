import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.concurrent.atomic.LongAdder;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.functions.RichFilterFunction;
import org.apache.flink.api.common.serialization.AbstractDeserializationSchema;
import org.apache.flink.api.common.state.StateTtlConfig;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonFactory;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonParser;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonToken;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;

/**
 * Flink job: Kafka, deduplication in keyed state with a time to live, ClickHouse over HTTP.
 *
 * <p>Options are environment variables PEER_*. Progress is written to standard output as JSON lines.
 */
public final class FlinkJob {
    static final LongAdder DONE = new LongAdder();

    public static void main(String[] arguments) throws Exception {
        Configuration options = new Configuration();
        options.setString("state.backend.type", "hashmap");
        options.setString("execution.checkpointing.dir", option("checkpoints"));
        options.setString("restart-strategy.type", "none");
        options.setString("pipeline.object-reuse", "true");
        options.setString("pipeline.generic-types", "false");
        StreamExecutionEnvironment job = StreamExecutionEnvironment.createLocalEnvironment(2, options);
        job.enableCheckpointing(Long.parseLong(option("checkpoint_ms")));
        KafkaSource<Tuple2<String, byte[]>> source = KafkaSource.<Tuple2<String, byte[]>>builder()
                .setBootstrapServers(option("kafka"))
                .setTopics(option("topic"))
                .setGroupId(option("group"))
                .setStartingOffsets(OffsetsInitializer.earliest())
                .setProperty("max.poll.records", "5000")
                .setValueOnlyDeserializer(new Rows())
                .build();
        job.fromSource(source, WatermarkStrategy.noWatermarks(), "kafka")
                .keyBy(event -> event.f0, Types.STRING)
                .filter(new FirstOfKey())
                .sinkTo(new ClickHouseSink());
        Thread progress = new Thread(FlinkJob::report);
        progress.setDaemon(true);
        progress.start();
        job.execute();
    }

    static String option(String name) {
        return System.getenv("PEER_" + name.toUpperCase());
    }

    static void report() {
        try {
            while (true) {
                Thread.sleep(100);
                System.out.println("{\"done\": " + DONE.sum() + "}");
            }
        } catch (InterruptedException ended) {
            Thread.currentThread().interrupt();
        }
    }

    /** Deserializer of events into their key and their row in RowBinary, which shuffle and sink then only copy. */
    static final class Rows extends AbstractDeserializationSchema<Tuple2<String, byte[]>> {
        private static final List<String> COLUMNS = List.of(
                "interaction_id", "feature_id", "interaction_type", "position", "metadata", "user_id", "session_id",
                "execution_id", "retriever_id", "query_snapshot", "document_score", "result_set_size", "feature_uri");
        private static final Set<Integer> NULLABLE = Set.of(5, 6, 7, 8, 10, 11, 12);
        private static final int FEATURE = 1, TYPES = 2, EXECUTION = 7, SCORE = 10;
        private transient JsonFactory json;

        Rows() {
            super(Types.TUPLE(Types.STRING, Types.PRIMITIVE_ARRAY(Types.BYTE)));
        }

        @Override
        public void open(InitializationContext context) {
            json = new JsonFactory();
        }

        @Override
        public Tuple2<String, byte[]> deserialize(byte[] value) throws IOException {
            byte[][] fields = new byte[COLUMNS.size()][];
            try (JsonParser in = json.createParser(value)) {
                in.nextToken();
                while (in.nextToken() == JsonToken.FIELD_NAME) {
                    int column = COLUMNS.indexOf(in.currentName());
                    if (in.nextToken() == JsonToken.VALUE_NULL || column < 0) {
                        in.skipChildren();
                    } else {
                        fields[column] = encoded(in, column, value);
                    }
                }
            }
            ByteArrayOutputStream row = new ByteArrayOutputStream(512);
            for (int column = 0; column < fields.length; column++) {
                if (NULLABLE.contains(column)) {
                    row.write(fields[column] == null ? 1 : 0);
                }
                if (fields[column] != null) {
                    row.writeBytes(fields[column]);
                }
            }
            return Tuple2.of(text(fields[EXECUTION]) + text(fields[FEATURE]) + text(fields[TYPES]), row.toByteArray());
        }

        private static byte[] encoded(JsonParser in, int column, byte[] value) throws IOException {
            switch (in.currentToken()) {
                case VALUE_STRING:
                    return sized(in.getText().getBytes(StandardCharsets.UTF_8));
                case START_OBJECT:
                    int from = (int) in.currentTokenLocation().getByteOffset();
                    in.skipChildren();
                    return sized(Arrays.copyOfRange(value, from, (int) in.currentLocation().getByteOffset()));
                case START_ARRAY:
                    ByteArrayOutputStream texts = new ByteArrayOutputStream();
                    int count = 0;
                    for (; in.nextToken() != JsonToken.END_ARRAY; count++) {
                        texts.writeBytes(sized(in.getText().getBytes(StandardCharsets.UTF_8)));
                    }
                    return join(count, texts.toByteArray());
                default:
                    ByteBuffer number = ByteBuffer.allocate(column == SCORE ? 8 : 4).order(ByteOrder.LITTLE_ENDIAN);
                    return (column == SCORE ? number.putDouble(in.getDoubleValue()) : number.putInt(in.getIntValue()))
                            .array();
            }
        }

        private static byte[] sized(byte[] bytes) {
            return join(bytes.length, bytes);
        }

        /** Return the bytes after a size in LEB128. */
        private static byte[] join(int size, byte[] bytes) {
            ByteArrayOutputStream joined = new ByteArrayOutputStream(bytes.length + 5);
            for (; size >= 128; size >>>= 7) {
                joined.write(size & 127 | 128);
            }
            joined.write(size);
            joined.writeBytes(bytes);
            return joined.toByteArray();
        }

        private static String text(byte[] field) {
            return field == null ? "" : new String(field, StandardCharsets.ISO_8859_1);
        }
    }

    /** Filter that passes the first event of a key, and remembers the key for 300 s. */
    static final class FirstOfKey extends RichFilterFunction<Tuple2<String, byte[]>> {
        private transient ValueState<Boolean> seen;

        @Override
        public void open(OpenContext context) {
            ValueStateDescriptor<Boolean> state = new ValueStateDescriptor<>("seen", Types.BOOLEAN);
            state.enableTimeToLive(StateTtlConfig.newBuilder(Duration.ofSeconds(300)).build());
            seen = getRuntimeContext().getState(state);
        }

        @Override
        public boolean filter(Tuple2<String, byte[]> event) throws IOException {
            if (seen.value() != null) {
                DONE.increment();
                return false;
            }
            seen.update(true);
            return true;
        }
    }
}
