package example;

import com.google.gson.Gson;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Iterator;
import java.util.Optional;
import java.util.concurrent.TimeUnit;
import kith.v1.Event;
import kith.v1.EventServiceGrpc;
import kith.v1.ListUsersRequest;
import kith.v1.ListUsersResponse;
import kith.v1.UserServiceGrpc;
import kith.v1.UserServiceGrpc.UserServiceBlockingStub;
import kith.v1.WatchEventsRequest;
import kith.v1.WatchEventsResponse;

/** Follows the feed of events, and resumes where it ended before. */
final class Watch {
    private static final Path FILE = Path.of(System.getenv().getOrDefault("KITH_CURSOR", "kith-cursor.json"));

    /** A position in the feed: events after the revision are next. */
    private static final class Cursor {
        final long revision;
        final String epoch;

        Cursor(long revision, String epoch) {
            this.revision = revision;
            this.epoch = epoch;
        }
    }

    private Watch() {}

    private static Optional<Cursor> load() throws IOException {
        return Files.exists(FILE)
                ? Optional.of(new Gson().fromJson(Files.readString(FILE), Cursor.class))
                : Optional.empty();
    }

    /** Replaces the cursor, in one step. Store it in the transaction of what {@code handle} writes, if it has one. */
    private static void store(Cursor cursor) throws IOException {
        Path written = Path.of(FILE + ".new");
        Files.writeString(written, new Gson().toJson(cursor));
        Files.move(written, FILE, StandardCopyOption.ATOMIC_MOVE);
    }

    /** Lists what is there before the first event. What changes meanwhile is an event after the first page. */
    private static Cursor begin(UserServiceBlockingStub users) throws InterruptedException {
        Cursor first = null;
        int count = 0;
        String token = "";
        do {
            ListUsersRequest request = ListUsersRequest.newBuilder()
                    .setPageSize(1000)
                    .setPageToken(token)
                    .build();
            ListUsersResponse page = Client.retry(() -> users.listUsers(request));
            count += page.getUsersCount();
            if (first == null) {
                first = new Cursor(page.getRevision(), page.getEpoch());
            }
            token = page.getNextPageToken();
        } while (!token.isEmpty());
        System.out.printf("listed %d users at revision %d%n", count, first.revision);
        return first;
    }

    /** Handles an event. It comes again if the program ends before the cursor is stored. */
    private static void handle(Event event) {
        System.out.printf(
                "%d %s %d %d%n", event.getSequence(), event.getKind(), event.getUserId(), event.getOtherUserId());
    }

    /** Handles events until the stream ends. */
    private static void watch(ManagedChannel channel) throws IOException, InterruptedException {
        Optional<Cursor> stored = load();
        Cursor from = stored.isPresent() ? stored.get() : begin(UserServiceGrpc.newBlockingStub(channel));
        WatchEventsRequest request = WatchEventsRequest.newBuilder()
                .setAfterSequence(from.revision)
                .setEpoch(from.epoch)
                .build();
        Iterator<WatchEventsResponse> stream =
                EventServiceGrpc.newBlockingStub(channel).watchEvents(request);
        while (stream.hasNext()) {
            WatchEventsResponse message = stream.next();
            // The first message has no events, nor has one that is sent because nothing happens: how far the feed was
            // read.
            message.getEventsList().forEach(Watch::handle);
            store(new Cursor(message.getRevision(), message.getEpoch()));
        }
    }

    public static void main(String[] arguments) throws Exception {
        ManagedChannel channel = Client.connect();
        try {
            while (true) {
                try {
                    watch(channel);
                } catch (StatusRuntimeException error) {
                    String reason = Client.errorInfo(error).getReason();
                    if (reason.equals("CURSOR_EXPIRED") || reason.equals("WRONG_EPOCH")) {
                        System.out.println(reason + ": listing again");
                        Files.deleteIfExists(FILE);
                    } else if (Client.isTemporary(error)) {
                        Thread.sleep(1000);
                    } else {
                        throw error;
                    }
                }
            }
        } finally {
            channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
        }
    }
}
