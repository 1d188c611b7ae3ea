package example;

import com.google.gson.Gson;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.CallCredentials;
import io.grpc.ChannelCredentials;
import io.grpc.CompositeChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.StatusProto;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.Reader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Executor;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

/** Connects to Kith, retries calls, and decodes errors. */
final class Client {
    /** Seconds for one attempt. */
    static final int TIMEOUT = 10;

    /** Attempts of a call. */
    private static final int ATTEMPTS = 10;

    private Client() {}

    /**
     * Connects to KITH_SERVER. {@code https://} is TLS, with the authorities of KITH_TLS_CA or Java's own.
     *
     * <p>KITH_TOKEN_FILE has an API key or a token. It is sent over TLS only.
     */
    static ManagedChannel connect() throws IOException {
        String server = System.getenv().getOrDefault("KITH_SERVER", "127.0.0.1:50051");
        boolean isSecure = server.startsWith("https://");
        ChannelCredentials credentials = isSecure ? tls() : InsecureChannelCredentials.create();
        String token = System.getenv("KITH_TOKEN_FILE");
        if (token != null) {
            if (!isSecure) {
                throw new IllegalArgumentException("KITH_TOKEN_FILE needs KITH_SERVER=https://…");
            }
            credentials = CompositeChannelCredentials.create(credentials, new TokenFile(Path.of(token)));
        }
        return Grpc.newChannelBuilder(server.replaceFirst("^https://", ""), credentials)
                // Retries reads, and balances over all addresses of the name.
                .defaultServiceConfig(serviceConfig())
                // Notices a server that is gone without a word, also while a watch is silent.
                .keepAliveTime(30, TimeUnit.SECONDS)
                .build();
    }

    private static ChannelCredentials tls() throws IOException {
        TlsChannelCredentials.Builder tls = TlsChannelCredentials.newBuilder();
        String authorities = System.getenv("KITH_TLS_CA");
        return authorities == null ? tls.build() : tls.trustManager(new File(authorities)).build();
    }

    @SuppressWarnings("unchecked")
    private static Map<String, ?> serviceConfig() throws IOException {
        try (Reader file = new InputStreamReader(
                Client.class.getResourceAsStream("/service-config.json"), StandardCharsets.UTF_8)) {
            return new Gson().fromJson(file, Map.class);
        }
    }

    /** Sends the token of a file. It is read for each call, since tokens expire and are replaced. */
    private static final class TokenFile extends CallCredentials {
        private static final Metadata.Key<String> AUTHORIZATION =
                Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

        private final Path path;

        TokenFile(Path path) {
            this.path = path;
        }

        @Override
        public void applyRequestMetadata(RequestInfo call, Executor executor, MetadataApplier applier) {
            executor.execute(() -> {
                try {
                    Metadata headers = new Metadata();
                    headers.put(AUTHORIZATION, "Bearer " + Files.readString(path).strip());
                    applier.apply(headers);
                } catch (IOException | RuntimeException error) {
                    applier.fail(Status.UNAUTHENTICATED.withCause(error));
                }
            });
        }

        @Override
        public void thisUsesUnstableApi() {}
    }

    /** Returns the ErrorInfo of an error of Kith, or an empty one. Its reason is a name of the enum ErrorReason. */
    static ErrorInfo errorInfo(StatusRuntimeException error) {
        return detail(error, ErrorInfo.getDefaultInstance());
    }

    private static <T extends Message> T detail(StatusRuntimeException error, T empty) {
        com.google.rpc.Status status = StatusProto.fromThrowable(error);
        for (com.google.protobuf.Any detail : status.getDetailsList()) {
            @SuppressWarnings("unchecked")
            Class<T> type = (Class<T>) empty.getClass();
            if (detail.is(type)) {
                try {
                    return detail.unpack(type);
                } catch (InvalidProtocolBufferException malformed) {
                    return empty;
                }
            }
        }
        return empty;
    }

    /** Whether the same call may succeed later. */
    static boolean isTemporary(StatusRuntimeException error) {
        return switch (error.getStatus().getCode()) {
            case UNAVAILABLE, DEADLINE_EXCEEDED -> true;
            case RESOURCE_EXHAUSTED -> Set.of("OVERLOADED", "RATE_LIMITED").contains(errorInfo(error).getReason());
            default -> false;
        };
    }

    /** Makes a call, again if it fails temporarily. A write needs a request id: then it is made once only. */
    static <T> T retry(Supplier<T> call) throws InterruptedException {
        for (int attempt = 1; ; attempt++) {
            try {
                return call.get();
            } catch (StatusRuntimeException error) {
                if (attempt == ATTEMPTS || !isTemporary(error)) {
                    throw error;
                }
                Duration pause = pause(attempt, error);
                System.err.println("retrying in " + pause.toMillis() + " ms: " + error.getStatus().getCode());
                Thread.sleep(pause.toMillis());
            }
        }
    }

    /** The time that the server asks for, or a random one that grows with the attempts. */
    private static Duration pause(int attempt, StatusRuntimeException error) {
        long longest = Math.min(100L << attempt, 2_000);
        Duration pause = Duration.ofMillis(ThreadLocalRandom.current().nextLong(longest / 2, longest));
        com.google.protobuf.Duration delay = detail(error, RetryInfo.getDefaultInstance()).getRetryDelay();
        Duration asked = Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
        return asked.compareTo(pause) > 0 ? asked : pause;
    }
}
