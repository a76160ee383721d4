import java.io.ByteArrayOutputStream;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.concurrent.CompletableFuture;
import org.apache.flink.api.common.operators.ProcessingTimeService;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.api.connector.sink2.WriterInitContext;
import org.apache.flink.api.java.tuple.Tuple2;

/** Sink of rows in RowBinary: each writer sends one insert while it gathers the next one. */
final class ClickHouseSink implements Sink<Tuple2<String, byte[]>> {
    private static final long FLUSH_MS = 1_000;

    @Override
    public SinkWriter<Tuple2<String, byte[]>> createWriter(WriterInitContext context) {
        return new Writer(context.getProcessingTimeService());
    }

    private static final class Writer implements SinkWriter<Tuple2<String, byte[]>> {
        private final HttpClient http = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        private final HttpRequest.Builder request;
        private final ProcessingTimeService timer;
        private final ByteArrayOutputStream rows = new ByteArrayOutputStream();
        private final int rowsPerInsert = Integer.parseInt(FlinkJob.option("rows_per_insert"));
        private int count;
        private CompletableFuture<Void> sent = CompletableFuture.completedFuture(null);

        Writer(ProcessingTimeService timer) {
            URI server = URI.create(FlinkJob.option("clickhouse"));
            String insert = "INSERT INTO " + FlinkJob.option("table") + " FORMAT RowBinary";
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
                FlinkJob.DONE.add(inserted);
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
