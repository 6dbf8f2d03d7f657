package chdb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"

	"github.com/ClickHouse/ch-go/compress"
	chproto "github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"
)

var formatClause = regexp.MustCompile(`(?i)\sFORMAT\s+([A-Za-z]\w*)\s*;?\s*$`)

// answerFormat is the format of the answer: the statement's own, else the client's.
func answerFormat(statement []byte, asked string) string {
	if m := formatClause.FindSubmatch(statement[max(0, len(statement)-200):]); m != nil {
		return string(m[1])
	}
	return asked
}

// reencode turns the engine's Native blocks, which are always of revision 0, into the
// revision that the client says it reads (client_protocol_version).
func reencode(data []byte, revision uint64) (out []byte, err error) {
	defer func() {
		if r := recover(); r != nil { // a column type the library cannot handle
			out, err = nil, fmt.Errorf("re-encode native block: %v", r)
		}
	}()
	reader := chproto.NewReader(bytes.NewReader(data))
	var buf chproto.Buffer
	for {
		block := proto.NewBlock()
		err := block.Decode(reader, 0)
		if errors.Is(err, io.EOF) {
			return buf.Buf, nil
		}
		if err != nil {
			return nil, fmt.Errorf("decode native block: %w", err)
		}
		if err := block.Encode(&buf, revision); err != nil {
			return nil, fmt.Errorf("encode native block: %w", err)
		}
	}
}

// pack makes blocks of ClickHouse's compressed format, which carries checksums.
func pack(data []byte, method string) ([]byte, error) {
	const blockSize = 1 << 20
	kind := compress.LZ4
	if method == "ZSTD" {
		kind = compress.ZSTD
	}
	w := compress.NewWriter(compress.LevelZero, kind)
	var out []byte
	for len(data) > 0 {
		n := min(len(data), blockSize)
		if err := w.Compress(data[:n]); err != nil {
			return nil, fmt.Errorf("compress answer: %w", err)
		}
		out, data = append(out, w.Data...), data[n:]
	}
	return out, nil
}
