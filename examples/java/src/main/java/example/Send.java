package example;

import com.google.rpc.ErrorInfo;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import kith.v1.AcceptConnectionRequestRequest;
import kith.v1.AcceptConnectionRequestResponse;
import kith.v1.Connection;
import kith.v1.ConnectionRequestServiceGrpc;
import kith.v1.ConnectionRequestServiceGrpc.ConnectionRequestServiceBlockingStub;
import kith.v1.ConnectionServiceGrpc;
import kith.v1.ConnectionServiceGrpc.ConnectionServiceBlockingStub;
import kith.v1.CreateUserRequest;
import kith.v1.ListConnectionsRequest;
import kith.v1.ListConnectionsResponse;
import kith.v1.SendConnectionRequestRequest;
import kith.v1.SendConnectionRequestResponse;
import kith.v1.User;
import kith.v1.UserServiceGrpc;
import kith.v1.UserServiceGrpc.UserServiceBlockingStub;

/** Sends two connection requests, accepts them, and lists the connections page by page. */
final class Send {
    private Send() {}

    /** An id for one write. Retries have the same, so the write is made once, and each attempt returns its response. */
    private static String requestId() {
        return UUID.randomUUID().toString();
    }

    private static long createUser(UserServiceBlockingStub users, String name) throws InterruptedException {
        String id = requestId();
        CreateUserRequest request = CreateUserRequest.newBuilder()
                .setUser(User.newBuilder().setUsername(name + "-" + id.substring(0, 8)))
                .setRequestId(id)
                .build();
        return Client.retry(() -> users.withDeadlineAfter(Client.TIMEOUT, TimeUnit.SECONDS).createUser(request))
                .getUser()
                .getId();
    }

    /** Sends a request, or returns the id of the one that is already open. */
    private static long send(ConnectionRequestServiceBlockingStub requests, long from, long to)
            throws InterruptedException {
        SendConnectionRequestRequest request = SendConnectionRequestRequest.newBuilder()
                .setFromUserId(from)
                .setToUserId(to)
                .setMessage("Hi!")
                .setRequestId(requestId())
                .build();
        try {
            SendConnectionRequestResponse sent = Client.retry(() -> requests
                    .withDeadlineAfter(Client.TIMEOUT, TimeUnit.SECONDS)
                    .sendConnectionRequest(request));
            long id = sent.getConnectionRequest().getId();
            System.out.printf("%d -> %d: request %d, %s%n", from, to, id, sent.getStatus());
            return id;
        } catch (StatusRuntimeException error) {
            ErrorInfo info = Client.errorInfo(error);
            if (!info.getReason().equals("REQUEST_PENDING")) {
                throw error;
            }
            String id = info.getMetadataOrThrow("connection_request_id");
            System.out.printf("%s: request %s%n", info.getReason(), id);
            return Long.parseLong(id);
        }
    }

    private static void accept(ConnectionRequestServiceBlockingStub requests, long id, long receiver)
            throws InterruptedException {
        AcceptConnectionRequestRequest request = AcceptConnectionRequestRequest.newBuilder()
                .setId(id)
                .setUserId(receiver)
                .setRequestId(requestId())
                .build();
        AcceptConnectionRequestResponse accepted = Client.retry(() -> requests
                .withDeadlineAfter(Client.TIMEOUT, TimeUnit.SECONDS)
                .acceptConnectionRequest(request));
        System.out.printf("%d accepts %d: %s%n", receiver, id, accepted.getStatus());
    }

    /** Visits the connections of a user, newest first. The service config retries the calls. */
    private static void connections(ConnectionServiceBlockingStub service, long user, Consumer<Connection> visit) {
        ListConnectionsRequest request =
                ListConnectionsRequest.newBuilder().setUserId(user).setPageSize(1).build(); // small, to have two pages
        while (true) {
            ListConnectionsResponse page = service.listConnections(request);
            page.getConnectionsList().forEach(visit);
            if (page.getNextPageToken().isEmpty()) {
                return;
            }
            request = request.toBuilder().setPageToken(page.getNextPageToken()).build();
        }
    }

    public static void main(String[] arguments) throws Exception {
        ManagedChannel channel = Client.connect();
        try {
            UserServiceBlockingStub users = UserServiceGrpc.newBlockingStub(channel);
            ConnectionRequestServiceBlockingStub requests = ConnectionRequestServiceGrpc.newBlockingStub(channel);
            long ann = createUser(users, "ann");
            long bob = createUser(users, "bob");
            long cy = createUser(users, "cy");
            for (long other : new long[] {bob, cy}) {
                send(requests, ann, other);
                long id = send(requests, ann, other);
                accept(requests, id, other);
            }
            connections(ConnectionServiceGrpc.newBlockingStub(channel), ann, connection -> System.out.printf(
                    "%d is connected with %d%n", ann, connection.getUser().getId()));
        } finally {
            channel.shutdown().awaitTermination(5, TimeUnit.SECONDS);
        }
    }
}
