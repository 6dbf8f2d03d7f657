// Package netaddr is an address a service listens on or Envoy dials: "host:port" or
// "unix:/path/to.sock". Between processes of one machine a Unix socket costs less
// CPU per call than loopback TCP.
package netaddr

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxUnixPath is the longest path of a Unix socket on Linux (sun_path, less its NUL).
const maxUnixPath = 107

// Addr is one parsed address.
type Addr struct {
	Network string // "tcp" or "unix"
	Host    string // tcp only
	Port    int    // tcp only, 0 to 65535; 0 asks for a free one
	Path    string // unix only
}

// Parse reads "host:port" or "unix:path".
func Parse(s string) (Addr, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		path = strings.TrimPrefix(path, "//")
		if path == "" {
			return Addr{}, fmt.Errorf("address %q: the socket's path is missing", s)
		}
		return Addr{Network: "unix", Path: path}, nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return Addr{}, fmt.Errorf("address %q: write host:port or unix:/path", s)
	}
	n, err := strconv.Atoi(port)
	if err != nil || n < 0 || n > 65535 {
		return Addr{}, fmt.Errorf("address %q: the port must be 0 to 65535", s)
	}
	return Addr{Network: "tcp", Host: host, Port: n}, nil
}

// Named reports whether the host is a name, which DNS knows.
func (a Addr) Named() bool {
	_, err := netip.ParseAddr(a.Host)
	return a.Network != "unix" && err != nil
}

// String is the form Parse reads.
func (a Addr) String() string {
	if a.Network == "unix" {
		return "unix:" + a.Path
	}
	return net.JoinHostPort(a.Host, strconv.Itoa(a.Port))
}

// In resolves a relative socket path against a folder.
func (a Addr) In(dir string) Addr {
	if a.Network == "unix" && !filepath.IsAbs(a.Path) {
		a.Path = filepath.Join(dir, a.Path)
	}
	return a
}

// Reachable is where an address to listen on is dialled on its own machine.
func (a Addr) Reachable() Addr {
	switch {
	case a.Network == "unix":
	case a.Host == "" || a.Host == "0.0.0.0":
		a.Host = "127.0.0.1"
	case a.Host == "::":
		a.Host = "::1"
	}
	return a
}

// Target is the address as grpc.NewClient takes it.
func (a Addr) Target() string {
	if a.Network == "unix" {
		return "unix:" + a.Path
	}
	return "passthrough:///" + a.String()
}

// DialContext connects to the address, whatever is asked for: a Transport of net/http that calls
// one server.
func (a Addr) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	var d net.Dialer
	if a.Network == "unix" {
		return d.DialContext(ctx, "unix", a.Path)
	}
	return d.DialContext(ctx, "tcp", a.String())
}

// Listen opens the address. A stale socket file is removed first; a new one is only
// for the user who runs the service.
func (a Addr) Listen() (net.Listener, error) {
	if a.Network == "tcp" {
		return net.Listen("tcp", a.String())
	}
	if len(a.Path) > maxUnixPath {
		return nil, fmt.Errorf("listen on %s: the path has %d bytes, a Unix socket's may have %d; choose a shorter state folder", a,
			len(a.Path), maxUnixPath)
	}
	if err := os.MkdirAll(filepath.Dir(a.Path), 0o700); err != nil {
		return nil, err
	}
	if conn, err := net.Dial("unix", a.Path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("listen on %s: another process already answers there", a)
	}
	if err := os.Remove(a.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ln, err := net.Listen("unix", a.Path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(a.Path, 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}
