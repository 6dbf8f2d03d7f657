package stubs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/wording"
)

// Faults is how a stub misbehaves: PUT /__stub/config replaces all of it. A request
// overrides single fields by headers: x-stub-delay-ms, x-stub-status and so on.
type Faults struct {
	DelayMS             int     `json:"delayMs"`             // before the answer begins, 0 to 600000
	JitterMS            int     `json:"jitterMs"`            // up to so much more, 0 to 600000
	ChunkDelayMS        int     `json:"chunkDelayMs"`        // between chunks of a stream, 0 to 60000
	ErrorRate           float64 `json:"errorRate"`           // share of calls that fail with Status, 0 to 1
	FailNext            int     `json:"failNext"`            // so many next calls fail with Status
	Status              int     `json:"status"`              // 400 to 599, default 500; alone it makes every call fail
	Hang                bool    `json:"hang"`                // never answer
	OmitUsage           bool    `json:"omitUsage"`           // leave the usage out
	IgnoreMaxTokens     bool    `json:"ignoreMaxTokens"`     // do not cut at the caller's maximum
	TruncateAfterChunks int     `json:"truncateAfterChunks"` // cut the connection after so many chunks of a stream, or half-way through a JSON body
	StallAfterChunks    int     `json:"stallAfterChunks"`    // send no more after so many chunks of a stream
	BrokenJSON          bool    `json:"brokenJson"`          // answer with a body that does not parse
	TokensPerChunk      int     `json:"tokensPerChunk"`      // of a stream, 1 to 1000, default 1
	LingerMS            int     `json:"lingerMs"`            // between the last byte of an answer and its end, 0 to 60000
	ErrorInside         bool    `json:"errorInside"`         // answer 200 with an error in it

	tokens   *int // x-stub-tokens: output tokens of each choice
	thoughts *int // x-stub-thoughts: reasoning tokens before the text
}

// ParseFaults decodes the body of PUT /__stub/config; an unknown member, a wrong type or
// a value out of range is an error that names it.
func ParseFaults(body []byte) (Faults, error) {
	var f Faults
	if !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) {
		return f, errors.New("a JSON object is expected")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return f, errors.New(wording.Member(wrong))
		}
		return f, fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return f, errors.New("one JSON object is expected, more follows it")
	}
	return f, f.check()
}

func (f *Faults) check() error {
	if f.TokensPerChunk == 0 {
		f.TokensPerChunk = 1
	}
	for _, field := range []struct {
		name             string
		value, low, high int
	}{
		{"delayMs", f.DelayMS, 0, 600_000}, {"jitterMs", f.JitterMS, 0, 600_000}, {"chunkDelayMs", f.ChunkDelayMS, 0, 60_000},
		{"lingerMs", f.LingerMS, 0, 60_000}, {"failNext", f.FailNext, 0, 1 << 30}, {"truncateAfterChunks", f.TruncateAfterChunks, 0, 1 << 30},
		{"stallAfterChunks", f.StallAfterChunks, 0, 1 << 30},
		{"tokensPerChunk", f.TokensPerChunk, 1, 1000},
	} {
		if field.value < field.low || field.value > field.high {
			return fmt.Errorf("%s must be %d to %d", field.name, field.low, field.high)
		}
	}
	if f.ErrorRate < 0 || f.ErrorRate > 1 {
		return errors.New("errorRate must be 0 to 1")
	}
	if f.Status != 0 && (f.Status < 400 || f.Status > 599) {
		return errors.New("status must be 400 to 599")
	}
	return nil
}

// overridden applies the x-stub-* headers of one request.
func (f Faults) overridden(h http.Header) (Faults, error) {
	for name := range h {
		field, ok := strings.CutPrefix(name, "X-Stub-")
		if !ok {
			continue
		}
		if err := f.override(field, h.Get(name)); err != nil {
			return f, fmt.Errorf("header %s: %w", strings.ToLower(name), err)
		}
	}
	return f, f.check()
}

func (f *Faults) override(field, value string) error {
	numbers := map[string]*int{"Delay-Ms": &f.DelayMS, "Jitter-Ms": &f.JitterMS, "Chunk-Delay-Ms": &f.ChunkDelayMS, "Status": &f.Status,
		"Truncate-After-Chunks": &f.TruncateAfterChunks, "Stall-After-Chunks": &f.StallAfterChunks, "Tokens-Per-Chunk": &f.TokensPerChunk,
		"Linger-Ms": &f.LingerMS}
	flags := map[string]*bool{"Hang": &f.Hang, "Omit-Usage": &f.OmitUsage, "Ignore-Max-Tokens": &f.IgnoreMaxTokens,
		"Broken-Json": &f.BrokenJSON, "Error-Inside": &f.ErrorInside}
	if flag, ok := flags[field]; ok {
		on, err := strconv.ParseBool(value)
		*flag = on
		return err
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 0 || n > maxPlanned {
		return fmt.Errorf("%q is not a number from 0 to %d", value, maxPlanned)
	}
	if number, ok := numbers[field]; ok {
		*number = n
		if field == "Status" && n != 0 {
			f.ErrorRate = 1
		}
		return nil
	}
	switch field {
	case "Tokens":
		f.tokens = &n
	case "Thoughts":
		f.thoughts = &n
	default:
		return errors.New("not known")
	}
	return nil
}

// failure is the status this call fails with, 0 when it does not.
func (s *Server) failure(f *Faults) int {
	status := f.Status
	if status == 0 {
		status = http.StatusInternalServerError
	}
	if f.FailNext > 0 && s.failNext.Load() > 0 && s.failNext.Add(-1) >= 0 {
		return status
	}
	if f.ErrorRate > 0 && rand.Float64() < f.ErrorRate {
		return status
	}
	if f.Status != 0 && f.FailNext == 0 && f.ErrorRate == 0 {
		return status
	}
	return 0
}

func (f *Faults) delay() time.Duration {
	d := time.Duration(f.DelayMS) * time.Millisecond
	if f.JitterMS > 0 {
		d += rand.N(time.Duration(f.JitterMS) * time.Millisecond)
	}
	return d
}
