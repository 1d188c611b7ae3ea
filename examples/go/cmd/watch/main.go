// Watch follows the feed of events, and resumes where it ended before.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"example.com/kith/client"
	kithv1 "example.com/kith/gen/kith/v1"
)

// cursor is a position in the feed: events after the revision are next.
type cursor struct {
	Revision int64  `json:"revision"`
	Epoch    string `json:"epoch"`
}

func file() string {
	if file := os.Getenv("KITH_CURSOR"); file != "" {
		return file
	}
	return "kith-cursor.json"
}

// load returns the stored cursor, or nil.
func load() (*cursor, error) {
	text, err := os.ReadFile(file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	stored := new(cursor)
	return stored, json.Unmarshal(text, stored)
}

// store replaces the cursor, in one step. Store it in the transaction of what handle writes, if it has one.
func store(new cursor) error {
	text, err := json.Marshal(new)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file()+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(file()+".new", file())
}

// begin lists what is there before the first event. What changes meanwhile is an event after the first page.
func begin(ctx context.Context, users kithv1.UserServiceClient) (*cursor, error) {
	request := &kithv1.ListUsersRequest{PageSize: 1000}
	var first *cursor
	for count := 0; ; {
		page, err := client.Retry(ctx, users.ListUsers, request)
		if err != nil {
			return nil, err
		}
		count += len(page.GetUsers())
		if first == nil {
			first = &cursor{Revision: page.GetRevision(), Epoch: page.GetEpoch()}
		}
		if page.GetNextPageToken() == "" {
			fmt.Printf("listed %d users at revision %d\n", count, first.Revision)
			return first, nil
		}
		request.PageToken = page.GetNextPageToken()
	}
}

// handle handles an event. It comes again if the program ends before the cursor is stored.
func handle(event *kithv1.Event) {
	fmt.Println(event.GetSequence(), event.GetKind(), event.GetUserId(), event.GetOtherUserId())
}

// watch handles events until the stream ends, which is always with an error.
func watch(ctx context.Context, connection *grpc.ClientConn) error {
	from, err := load()
	if err == nil && from == nil {
		from, err = begin(ctx, kithv1.NewUserServiceClient(connection))
	}
	if err != nil {
		return err
	}
	request := &kithv1.WatchEventsRequest{AfterSequence: proto.Int64(from.Revision), Epoch: from.Epoch}
	stream, err := kithv1.NewEventServiceClient(connection).WatchEvents(ctx, request)
	if err != nil {
		return err
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		// The first message has no events, nor has one that is sent because nothing happens: how far the feed was read.
		for _, event := range message.GetEvents() {
			handle(event)
		}
		if err := store(cursor{Revision: message.GetRevision(), Epoch: message.GetEpoch()}); err != nil {
			return err
		}
	}
}

func run(ctx context.Context) error {
	connection, err := client.Connect()
	if err != nil {
		return err
	}
	defer connection.Close()
	for {
		err := watch(ctx, connection)
		reason := client.ErrorInfo(err).GetReason()
		switch {
		case ctx.Err() != nil:
			return nil
		case reason == "CURSOR_EXPIRED" || reason == "WRONG_EPOCH":
			fmt.Println(reason + ": listing again")
			if err := os.Remove(file()); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		case client.IsTemporary(err):
			time.Sleep(time.Second)
		default:
			return err
		}
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}
