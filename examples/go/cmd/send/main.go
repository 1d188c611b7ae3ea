// Send sends two connection requests, accepts them, and lists the connections page by page.
package main

import (
	"context"
	"fmt"
	"log"
	"strconv"

	"github.com/google/uuid"

	"example.com/kith/client"
	kithv1 "example.com/kith/gen/kith/v1"
)

// requestID returns an id for one write. Retries have the same, so the write is made once, and each attempt returns its
// response.
func requestID() string { return uuid.NewString() }

func createUser(ctx context.Context, users kithv1.UserServiceClient, name string) (int64, error) {
	id := requestID()
	created, err := client.Retry(ctx, users.CreateUser, &kithv1.CreateUserRequest{
		User:      &kithv1.User{Username: name + "-" + id[:8]},
		RequestId: id,
	})
	return created.GetUser().GetId(), err
}

// send sends a request, or returns the id of the one that is already open.
func send(ctx context.Context, requests kithv1.ConnectionRequestServiceClient, from, to int64) (int64, error) {
	sent, err := client.Retry(ctx, requests.SendConnectionRequest, &kithv1.SendConnectionRequestRequest{
		FromUserId: from,
		ToUserId:   to,
		Message:    "Hi!",
		RequestId:  requestID(),
	})
	if info := client.ErrorInfo(err); info.GetReason() == "REQUEST_PENDING" {
		id := info.GetMetadata()["connection_request_id"]
		fmt.Printf("%s: request %s\n", info.GetReason(), id)
		return strconv.ParseInt(id, 10, 64)
	}
	if err != nil {
		return 0, err
	}
	id := sent.GetConnectionRequest().GetId()
	fmt.Printf("%d -> %d: request %d, %v\n", from, to, id, sent.GetStatus())
	return id, nil
}

func accept(ctx context.Context, requests kithv1.ConnectionRequestServiceClient, id, receiver int64) error {
	accepted, err := client.Retry(ctx, requests.AcceptConnectionRequest, &kithv1.AcceptConnectionRequestRequest{
		Id:        id,
		UserId:    receiver,
		RequestId: requestID(),
	})
	if err != nil {
		return err
	}
	fmt.Printf("%d accepts %d: %v\n", receiver, id, accepted.GetStatus())
	return nil
}

// connections calls visit for each connection of a user, newest first. The service config retries the calls.
func connections(
	ctx context.Context,
	service kithv1.ConnectionServiceClient,
	user int64,
	visit func(*kithv1.Connection),
) error {
	request := &kithv1.ListConnectionsRequest{UserId: user, PageSize: 1} // small, to have two pages
	for {
		page, err := service.ListConnections(ctx, request)
		if err != nil {
			return err
		}
		for _, connection := range page.GetConnections() {
			visit(connection)
		}
		if page.GetNextPageToken() == "" {
			return nil
		}
		request.PageToken = page.GetNextPageToken()
	}
}

func run(ctx context.Context) error {
	connection, err := client.Connect()
	if err != nil {
		return err
	}
	defer connection.Close()
	users := kithv1.NewUserServiceClient(connection)
	requests := kithv1.NewConnectionRequestServiceClient(connection)
	var ids []int64
	for _, name := range []string{"ann", "bob", "cy"} {
		id, err := createUser(ctx, users, name)
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	ann, others := ids[0], ids[1:]
	for _, other := range others {
		if _, err := send(ctx, requests, ann, other); err != nil {
			return err
		}
		id, err := send(ctx, requests, ann, other)
		if err != nil {
			return err
		}
		if err := accept(ctx, requests, id, other); err != nil {
			return err
		}
	}
	return connections(ctx, kithv1.NewConnectionServiceClient(connection), ann, func(connection *kithv1.Connection) {
		fmt.Printf("%d is connected with %d\n", ann, connection.GetUser().GetId())
	})
}

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
