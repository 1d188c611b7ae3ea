// Package insecure is the one of gRPC 1.34 and newer, for Debian 12's gRPC 1.33.
package insecure

import (
	"context"
	"net"

	"google.golang.org/grpc/credentials"
)

// NewCredentials returns credentials without transport security.
func NewCredentials() credentials.TransportCredentials { return insecure{} }

type insecure struct{ info }

type info struct{}

func (info) AuthType() string { return "insecure" }

func (insecure) ClientHandshake(_ context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return conn, info{}, nil
}

func (insecure) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return conn, info{}, nil
}

func (insecure) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "insecure"}
}

func (insecure) Clone() credentials.TransportCredentials { return insecure{} }

func (insecure) OverrideServerName(string) error { return nil }
