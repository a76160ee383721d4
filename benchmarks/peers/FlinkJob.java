import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Arrays;
import java.util.Base64;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.atomic.LongAdder;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.functions.RichFilterFunction;
import org.apache.flink.api.common.operators.ProcessingTimeService;
import org.apache.flink.api.common.serialization.AbstractDeserializationSchema;
import org.apache.flink.api.common.state.StateTtlConfig;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.api.connector.sink2.WriterInitContext;
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
    static final long FLUSH_MS = 1_000;

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
                .sinkTo(new ClickHouse());
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
            String id = null, feature = null, user = null, session = null, execution = null, retriever = null;
            String uri = null, types = null;
            byte[] metadata = {}, query = {};
            Row typeList = new Row();
            int position = 0, typeCount = 0;
            Double score = null;
            Integer size = null;
            try (JsonParser in = json.createParser(value)) {
                in.nextToken();
                while (in.nextToken() == JsonToken.FIELD_NAME) {
                    String name = in.currentName();
                    boolean isNull = in.nextToken() == JsonToken.VALUE_NULL;
                    switch (isNull ? "" : name) {
                        case "interaction_id" -> id = in.getText();
                        case "feature_id" -> feature = in.getText();
                        case "interaction_type" -> {
                            while (in.nextToken() != JsonToken.END_ARRAY) {
                                types = types == null ? in.getText() : types + "," + in.getText();
                                typeList.text(in.getText());
                                typeCount++;
                            }
                        }
                        case "position" -> position = in.getIntValue();
                        case "metadata" -> metadata = raw(in, value);
                        case "user_id" -> user = in.getText();
                        case "session_id" -> session = in.getText();
                        case "execution_id" -> execution = in.getText();
                        case "retriever_id" -> retriever = in.getText();
                        case "query_snapshot" -> query = raw(in, value);
                        case "document_score" -> score = in.getDoubleValue();
                        case "result_set_size" -> size = in.getIntValue();
                        case "feature_uri" -> uri = in.getText();
                        default -> in.skipChildren();
                    }
                }
            }
            Row row = new Row();
            row.text(id).text(feature).length(typeCount).writeBytes(typeList.toByteArray());
            row.int32(position).bytes(metadata).optional(user).optional(session).optional(execution).optional(retriever);
            row.bytes(query).write(score == null ? 1 : 0);
            if (score != null) {
                row.int64(Double.doubleToLongBits(score));
            }
            row.write(size == null ? 1 : 0);
            if (size != null) {
                row.int32(size);
            }
            row.optional(uri);
            return Tuple2.of(execution + "|" + feature + "|" + types, row.toByteArray());
        }

        private static byte[] raw(JsonParser in, byte[] value) throws IOException {
            int from = (int) in.currentTokenLocation().getByteOffset();
            in.skipChildren();
            return Arrays.copyOfRange(value, from, (int) in.currentLocation().getByteOffset());
        }
    }

    /** Row in ClickHouse's format RowBinary. */
    static final class Row extends ByteArrayOutputStream {
        Row() {
            super(512);
        }

        Row length(int length) {
            for (; length >= 128; length >>>= 7) {
                write(length & 127 | 128);
            }
            write(length);
            return this;
        }

        Row bytes(byte[] bytes) {
            length(bytes.length).writeBytes(bytes);
            return this;
        }

        Row text(String text) {
            return bytes(text.getBytes(StandardCharsets.UTF_8));
        }

        Row optional(String text) {
            write(text == null ? 1 : 0);
            return text == null ? this : text(text);
        }

        Row int32(int number) {
            writeBytes(ByteBuffer.allocate(4).order(ByteOrder.LITTLE_ENDIAN).putInt(number).array());
            return this;
        }

        Row int64(long number) {
            writeBytes(ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN).putLong(number).array());
            return this;
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

    /** Sink that inserts rows in batches: one is sent while the next one is gathered. */
    static final class ClickHouse implements Sink<Tuple2<String, byte[]>> {
        @Override
        public SinkWriter<Tuple2<String, byte[]>> createWriter(WriterInitContext context) {
            return new Writer(context.getProcessingTimeService());
        }
    }

    static final class Writer implements SinkWriter<Tuple2<String, byte[]>> {
        private final HttpClient http = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        private final HttpRequest.Builder request;
        private final ProcessingTimeService timer;
        private ByteArrayOutputStream rows = new ByteArrayOutputStream();
        private final int rowsPerInsert = Integer.parseInt(option("rows_per_insert"));
        private int count;
        private CompletableFuture<Void> sent = CompletableFuture.completedFuture(null);

        Writer(ProcessingTimeService timer) {
            URI server = URI.create(option("clickhouse"));
            String insert = "INSERT INTO " + option("table") + " FORMAT RowBinary";
            String query = "/?query=" + URLEncoder.encode(insert, StandardCharsets.UTF_8);
            String login = Base64.getEncoder().encodeToString(server.getUserInfo().getBytes(StandardCharsets.UTF_8));
            request = HttpRequest.newBuilder(URI.create("http://" + server.getHost() + ":" + server.getPort() + query))
                    .header("Authorization", "Basic " + login);
            this.timer = timer;
            registerTimer();
        }

        private void registerTimer() {
            timer.registerTimer(timer.getCurrentProcessingTime() + FLUSH_MS, at -> {
                send();
                registerTimer();
            });
        }

        @Override
        public void write(Tuple2<String, byte[]> event, Context context) {
            rows.writeBytes(event.f1);
            if (++count >= rowsPerInsert) {
                send();
            }
        }

        private void send() {
            sent.join();
            if (count == 0) {
                return;
            }
            int inserted = count;
            HttpRequest insert = request.copy().POST(HttpRequest.BodyPublishers.ofByteArray(rows.toByteArray())).build();
            sent = http.sendAsync(insert, HttpResponse.BodyHandlers.ofString()).thenAccept(answer -> {
                if (answer.statusCode() != 200) {
                    throw new IllegalStateException("ClickHouse refused rows: " + answer.body());
                }
                DONE.add(inserted);
            });
            rows.reset();
            count = 0;
        }

        @Override
        public void flush(boolean endOfInput) {
            send();
            sent.join();
        }

        @Override
        public void close() {}
    }
}
