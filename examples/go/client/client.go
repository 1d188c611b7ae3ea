// Package client connects to Kith, retries calls, and decodes errors.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"fmt"
	"log"
	"math/rand"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

//go:generate buf generate --template ../buf.gen.yaml --output .. ../../../proto
//go:generate cp ../../../docs/service-config.json .

// It retries reads, and balances over all addresses of the name.
//
//go:embed service-config.json
var serviceConfig string

const (
	timeout  = 10 * time.Second // for one attempt
	attempts = 10               // of a call
)

// Connect opens a connection to KITH_SERVER. https:// is TLS, with the authorities of KITH_TLS_CA or the system's.
//
// KITH_TOKEN_FILE has an API key or a token. It is sent over TLS only.
func Connect() (*grpc.ClientConn, error) {
	server := os.Getenv("KITH_SERVER")
	if server == "" {
		server = "127.0.0.1:50051"
	}
	transport := insecure.NewCredentials()
	if strings.HasPrefix(server, "https://") {
		server = strings.TrimPrefix(server, "https://")
		authorities, err := authorities(os.Getenv("KITH_TLS_CA"))
		if err != nil {
			return nil, err
		}
		transport = credentials.NewTLS(&tls.Config{RootCAs: authorities})
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultServiceConfig(serviceConfig),
		// Notices a server that is gone without a word, also while a watch is silent.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second}),
	}
	if file := os.Getenv("KITH_TOKEN_FILE"); file != "" {
		options = append(options, grpc.WithPerRPCCredentials(tokenFile(file)))
	}
	return grpc.NewClient(server, options...)
}

// authorities returns the certificates of a file, or nil for the system's.
func authorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate", file)
	}
	return pool, nil
}

// tokenFile sends the token of a file. It is read for each call, since tokens expire and are replaced.
type tokenFile string

func (file tokenFile) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := os.ReadFile(string(file))
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + strings.TrimSpace(string(token))}, nil
}

func (tokenFile) RequireTransportSecurity() bool { return true }

// ErrorInfo returns the ErrorInfo of an error of Kith, or nil. Its reason is a name of the enum ErrorReason.
func ErrorInfo(err error) *errdetails.ErrorInfo {
	return detail[*errdetails.ErrorInfo](err)
}

func detail[T any](err error) (none T) {
	for _, detail := range status.Convert(err).Details() {
		if found, ok := detail.(T); ok {
			return found
		}
	}
	return none
}

// IsTemporary reports whether the same call may succeed later.
func IsTemporary(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded:
		return true
	case codes.ResourceExhausted:
		reason := ErrorInfo(err).GetReason()
		return reason == "OVERLOADED" || reason == "RATE_LIMITED"
	default:
		return false
	}
}

// Retry calls a method, again if it fails temporarily. A write needs a request id: then it is made once only.
func Retry[Request, Response any](
	ctx context.Context,
	method func(context.Context, *Request, ...grpc.CallOption) (*Response, error),
	request *Request,
) (*Response, error) {
	for attempt := 1; ; attempt++ {
		response, err := try(ctx, method, request)
		if err == nil || attempt == attempts || !IsTemporary(err) {
			return response, err
		}
		pause := pause(attempt, err)
		log.Printf("retrying in %v: %v", pause.Round(time.Millisecond), status.Code(err))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func try[Request, Response any](
	ctx context.Context,
	method func(context.Context, *Request, ...grpc.CallOption) (*Response, error),
	request *Request,
) (*Response, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return method(ctx, request)
}

// pause returns the time that the server asks for, or a random one that grows with the attempts.
func pause(attempt int, err error) time.Duration {
	longest := 100 * time.Millisecond << attempt
	if longest > 2*time.Second {
		longest = 2 * time.Second
	}
	pause := longest/2 + time.Duration(rand.Int63n(int64(longest/2)))
	delay := detail[*errdetails.RetryInfo](err).GetRetryDelay()
	asked := time.Duration(delay.GetSeconds())*time.Second + time.Duration(delay.GetNanos())
	if asked > pause {
		return asked
	}
	return pause
}
