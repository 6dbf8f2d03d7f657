package stubs

import (
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

const (
	defaultKeep = 200_000
	keepBodies  = 20
	keepBytes   = 64 << 10 // of one remembered body
	maxNames    = 1000     // distinct models and paths remembered by name
)

// Served is what the stub really gave one request.
type Served struct {
	Seq       uint64 `json:"seq"` // 1, 2, 3, ... since the last reset
	ID        string `json:"id"`  // x-request-id as received, empty without one
	Path      string `json:"path"`
	Model     string `json:"model"`
	Status    int    `json:"status"` // 0: nothing was answered
	Stream    bool   `json:"stream"`
	Input     int    `json:"input"`     // input tokens; 0 when nothing was served
	Generated int    `json:"generated"` // output tokens of the whole answer
	Output    int    `json:"output"`    // of those, written before the reader went away; reasoning included
	Kinds
	Aborted   bool      `json:"aborted"`   // the reader went away before the end
	Truncated bool      `json:"truncated"` // the stub itself cut the answer
	NoUsage   bool      `json:"noUsage"`   // the usage was left out
	Time      time.Time `json:"time"`
}

// Kinds are tokens of the whole answer that its usage tells apart.
type Kinds struct {
	CacheRead    int `json:"cacheRead"`    // of the input
	CacheWrite5m int `json:"cacheWrite5m"` // of the input, for five minutes
	CacheWrite1h int `json:"cacheWrite1h"` // of the input, for an hour
	Reasoning    int `json:"reasoning"`    // of the output; Anthropic does not tell it
}

// Body is one of the last requests, for tests that look at what the gateway sends.
type Body struct {
	ID      string   `json:"id"`
	Method  string   `json:"method"`
	URI     string   `json:"uri"`
	Headers []string `json:"headers"` // names only: values may be secrets
	Body    string   `json:"body"`    // at most 64 KiB
}

// Counts are totals since the last reset.
type Counts struct {
	Total        uint64         `json:"total"`
	Open         int            `json:"open"` // being answered now
	Aborted      uint64         `json:"aborted"`
	InputTokens  uint64         `json:"inputTokens"`
	OutputTokens uint64         `json:"outputTokens"`
	ByStatus     map[int]uint64 `json:"byStatus"`
}

// entry is Served in 88 bytes, so that 200k of them are no burden.
type entry struct {
	seq                      uint64
	uuid                     [16]byte
	text                     string // an id that is not a UUID
	millis                   int64
	input, generated, output int32
	kinds                    [4]int32 // in the order of Kinds
	path, model              uint16
	status                   int16
	flags                    uint8
}

const (
	flagStream = 1 << iota
	flagAborted
	flagTruncated
	flagNoUsage
	flagUUID
)

// recorder remembers the last keep requests in a ring.
type recorder struct {
	mu     sync.Mutex
	keep   int
	ring   []entry
	next   int // where the ring overwrites once it is full
	seq    uint64
	counts Counts
	names  []string
	index  map[string]uint16
	bodies []Body
}

func newRecorder(keep int) *recorder {
	if keep <= 0 {
		keep = defaultKeep
	}
	r := &recorder{keep: keep}
	r.reset()
	return r
}

func (r *recorder) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	open := r.counts.Open
	r.ring, r.next, r.seq, r.bodies = nil, 0, 0, nil
	r.names, r.index = []string{""}, map[string]uint16{"": 0}
	r.counts = Counts{Open: open, ByStatus: map[int]uint64{}}
}

// begin counts an open request and remembers its body.
func (r *recorder) begin(b Body) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.Open++
	if len(r.bodies) >= keepBodies {
		r.bodies = append(r.bodies[:0], r.bodies[1:]...)
	}
	r.bodies = append(r.bodies, b)
}

func (r *recorder) name(s string) uint16 {
	if i, ok := r.index[s]; ok {
		return i
	}
	if len(r.names) >= maxNames {
		return 0
	}
	s = strings.Clone(s)
	i := uint16(len(r.names))
	r.names, r.index[s] = append(r.names, s), i
	return i
}

// end stores what a request got.
func (r *recorder) end(s Served) {
	e := entry{millis: s.Time.UnixMilli(), input: int32(s.Input), generated: int32(s.Generated), output: int32(s.Output),
		kinds: [...]int32{int32(s.CacheRead), int32(s.CacheWrite5m), int32(s.CacheWrite1h), int32(s.Reasoning)}, status: int16(s.Status)}
	if id, err := uuid.Parse(s.ID); err == nil && id.String() == s.ID {
		e.uuid, e.flags = id, flagUUID
	} else {
		e.text = strings.Clone(s.ID[:min(len(s.ID), 128)])
	}
	e.flags |= flagIf(s.Stream, flagStream) | flagIf(s.Aborted, flagAborted) | flagIf(s.Truncated, flagTruncated) | flagIf(s.NoUsage,
		flagNoUsage)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq++
	e.seq, e.path, e.model = r.seq, r.name(s.Path), r.name(s.Model)
	r.counts.Open--
	r.counts.Total++
	r.counts.ByStatus[s.Status]++
	r.counts.InputTokens += uint64(s.Input)
	r.counts.OutputTokens += uint64(s.Output)
	if s.Aborted {
		r.counts.Aborted++
	}
	if len(r.ring) < r.keep {
		r.ring = append(r.ring, e)
		return
	}
	r.ring[r.next] = e
	r.next = (r.next + 1) % r.keep
}

func flagIf(on bool, flag uint8) uint8 {
	if on {
		return flag
	}
	return 0
}

func (r *recorder) served(e *entry) Served {
	id := e.text
	if e.flags&flagUUID != 0 {
		id = uuid.UUID(e.uuid).String()
	}
	return Served{Seq: e.seq, ID: id, Path: r.names[e.path], Model: r.names[e.model], Status: int(e.status), Stream: e.flags&flagStream != 0,
		Input: int(e.input), Generated: int(e.generated), Output: int(e.output),
		Kinds:     Kinds{CacheRead: int(e.kinds[0]), CacheWrite5m: int(e.kinds[1]), CacheWrite1h: int(e.kinds[2]), Reasoning: int(e.kinds[3])},
		Aborted:   e.flags&flagAborted != 0,
		Truncated: e.flags&flagTruncated != 0, NoUsage: e.flags&flagNoUsage != 0, Time: time.UnixMilli(e.millis).UTC()}
}

// list gives at most limit requests after seq, oldest first; id narrows it to one.
func (r *recorder) list(id string, after uint64, limit int) []Served {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := []Served{}
	oldest := r.seq - uint64(len(r.ring)) // seq before the oldest one kept
	skip := 0
	if after > oldest {
		skip = int(min(after-oldest, uint64(len(r.ring))))
	}
	for i := skip; i < len(r.ring) && len(found) < limit; i++ {
		e := &r.ring[(r.next+i)%len(r.ring)]
		if s := r.served(e); id == "" || s.ID == id {
			found = append(found, s)
		}
	}
	return found
}

func (r *recorder) totals() (Counts, []Body) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.counts
	c.ByStatus = make(map[int]uint64, len(r.counts.ByStatus))
	for status, n := range r.counts.ByStatus {
		c.ByStatus[status] = n
	}
	return c, append([]Body{}, r.bodies...)
}
