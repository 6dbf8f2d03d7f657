package chdb

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
)

// library is the part of libchdb's C interface (chdb.h) in use here.
type library struct {
	args      []string   // of every connection: which data folder
	opening   sync.Mutex // opening changes signal handlers of the process
	connect   func(argc int32, argv unsafe.Pointer) unsafe.Pointer
	closeConn func(conn unsafe.Pointer)
	query     func(conn unsafe.Pointer, q unsafe.Pointer, qn uintptr, f unsafe.Pointer, fn uintptr,
		names, nameLens, values, valueLens unsafe.Pointer, n uintptr) unsafe.Pointer
	signals func(enabled int32)
	buffer  func(result unsafe.Pointer) unsafe.Pointer
	length  func(result unsafe.Pointer) uintptr
	failure func(result unsafe.Pointer) string
	rows    func(result unsafe.Pointer) uint64
	bytes   func(result unsafe.Pointer) uint64
	written func(result unsafe.Pointer) uint64
	destroy func(result unsafe.Pointer)
}

func load(path string) (*library, error) {
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return nil, fmt.Errorf("load clickhouse engine: %w", err)
	}
	l := &library{}
	for name, fn := range map[string]any{
		"chdb_connect": &l.connect, "chdb_close_conn": &l.closeConn, "chdb_query_with_params_n": &l.query,
		"chdb_set_signal_handlers_enabled": &l.signals, "chdb_result_buffer": &l.buffer, "chdb_result_length": &l.length,
		"chdb_result_error": &l.failure, "chdb_result_rows_read": &l.rows, "chdb_result_bytes_read": &l.bytes,
		"chdb_result_rows_written": &l.written, "chdb_destroy_query_result": &l.destroy,
	} {
		symbol, err := purego.Dlsym(handle, name)
		if err != nil {
			return nil, fmt.Errorf("load clickhouse engine: %w", err)
		}
		purego.RegisterFunc(fn, symbol)
	}
	return l, nil
}

// conn is one connection: settings and the chosen database are its own.
type conn struct {
	lib  *library
	slot unsafe.Pointer // chdb_connection*
}

// open gives a new connection; the first one boots the engine.
func (l *library) open() (*conn, error) {
	l.opening.Lock()
	defer l.opening.Unlock()
	var pin runtime.Pinner
	defer pin.Unpin()
	argv := make([]*byte, 0, len(l.args)+2)
	for _, a := range append([]string{"clickhouse"}, l.args...) {
		argv = append(argv, cString(&pin, a))
	}
	argv = append(argv, nil)
	var slot unsafe.Pointer
	keepSignals(func() {
		l.signals(0)
		slot = l.connect(int32(len(argv)-1), unsafe.Pointer(&argv[0]))
	})
	if slot == nil {
		return nil, errors.New("open clickhouse engine: it refused; is another process using its data folder?")
	}
	return &conn{lib: l, slot: slot}, nil
}

func (c *conn) close() {
	c.lib.opening.Lock()
	defer c.lib.opening.Unlock()
	keepSignals(func() { c.lib.closeConn(c.slot) })
}

// cString is a NUL-terminated copy that the collector leaves in place.
func cString(pin *runtime.Pinner, s string) *byte {
	p := &append([]byte(s), 0)[0]
	pin.Pin(p)
	return p
}

// result is what a statement gave. Bytes are in the format asked for.
type result struct {
	data    []byte
	rows    uint64 // read
	bytes   uint64 // read
	written uint64 // rows
}

// query runs one statement with its parameters ({name:Type} in the text). The engine's
// own errors are *exception.
func (c *conn) query(text []byte, format string, params map[string]string) (result, error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	n := len(params)
	names, values := make([]*byte, 0, n+1), make([]*byte, 0, n+1)
	nameLens, valueLens := make([]uintptr, 0, n+1), make([]uintptr, 0, n+1)
	for name, value := range params {
		names, nameLens = append(names, cString(&pin, name)), append(nameLens, uintptr(len(name)))
		values, valueLens = append(values, cString(&pin, value)), append(valueLens, uintptr(len(value)))
	}
	names, values, nameLens, valueLens = append(names, nil), append(values, nil), append(nameLens, 0), append(valueLens, 0) // never empty
	f := append([]byte(format), 0)
	text = append(text, 0) // not part of the statement
	r := c.lib.query(*(*unsafe.Pointer)(c.slot), unsafe.Pointer(&text[0]), uintptr(len(text)-1), unsafe.Pointer(&f[0]), uintptr(len(format)),
		unsafe.Pointer(&names[0]), unsafe.Pointer(&nameLens[0]), unsafe.Pointer(&values[0]), unsafe.Pointer(&valueLens[0]), uintptr(n))
	runtime.KeepAlive(text)
	if r == nil {
		return result{}, errors.New("clickhouse engine gave no result")
	}
	defer c.lib.destroy(r)
	if failure := c.lib.failure(r); failure != "" {
		return result{}, parseException(failure)
	}
	out := result{rows: c.lib.rows(r), bytes: c.lib.bytes(r), written: c.lib.written(r)}
	if length := c.lib.length(r); length > 0 {
		out.data = append([]byte(nil), unsafe.Slice((*byte)(c.lib.buffer(r)), length)...)
	}
	return out, nil
}
