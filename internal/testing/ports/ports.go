package ports

import (
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"os"
	"path/filepath"
)

// wide is how many ports are handed out before one comes again.
const wide = 12_000

// Free are n loopback addresses where nobody listens, and that nobody else was given: each comes again
// only after all the others, in every process with the same temporary folder, so that it is still free
// when a process that was told it starts, or starts anew. The system gives their ports to nobody: they
// lie below those that it takes for outgoing connections and for port 0, of which a busy machine takes
// many before a process listens on the one that it was told.
func Free(n int) ([]string, error) {
	folder := os.TempDir()
	line, err := os.OpenFile(filepath.Join(folder, fmt.Sprintf("leaky-ports-%d", os.Getuid())), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("find %d free ports: %w", n, err)
	}
	defer line.Close()
	begin := fnv.New32() // processes of another folder begin elsewhere
	begin.Write([]byte(folder))
	var found []string
	for tries := 0; len(found) < n; tries++ {
		place, err := draw(line)
		if err != nil {
			return nil, fmt.Errorf("find %d free ports: %w", n, err)
		}
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", firstEphemeral()-1-int((int64(begin.Sum32())+place)%wide)))
		switch {
		case err == nil:
			defer ln.Close()
			found = append(found, ln.Addr().String())
		case tries > wide:
			return nil, fmt.Errorf("find %d free ports: %w", n, err)
		}
	}
	return found, nil
}

// draw is the next place in a line that all processes draw from: each adds one byte to its file, and
// where that came to stand is its own (open(2), O_APPEND: finding the end and writing is one step).
func draw(line *os.File) (int64, error) {
	if _, err := line.Write([]byte{0}); err != nil {
		return 0, err
	}
	return line.Seek(0, io.SeekCurrent)
}

// firstEphemeral is the first port that the system itself gives out: Linux says it, and
// others begin at 49152 (IANA) or above.
func firstEphemeral() int {
	var first, last int
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(text), &first, &last)
	}
	if err != nil || first < 20_000 {
		return 32_768
	}
	return first
}
