package client

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/proto"
)

// codec lets Debian 12's gRPC 1.33, whose own codec is of an older protobuf, carry messages of the present one.
type codec struct{}

func init() { encoding.RegisterCodec(codec{}) }

func (codec) Name() string { return "proto" }

func (codec) Marshal(message interface{}) ([]byte, error) {
	if message, ok := message.(proto.Message); ok {
		return proto.Marshal(message)
	}
	return nil, fmt.Errorf("%T is not a message", message)
}

func (codec) Unmarshal(data []byte, message interface{}) error {
	if message, ok := message.(proto.Message); ok {
		return proto.Unmarshal(data, message)
	}
	return fmt.Errorf("%T is not a message", message)
}
