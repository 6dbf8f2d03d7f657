package demo

import (
	"strconv"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"
)

// Manners of calls in a rude demo, as the verdict names them.
const (
	politely    = "to the end"
	leavesAtEnd = "left at the end of the stream"
	leavesEarly = "left before the first byte"
	leavesMid   = "left in the middle"
	tiresOf     = "tired of a stream that stalls"
	unanswered  = "provider hangs, client leaves"
	timesOut    = "provider hangs, gateway gives up"
	refuses     = "provider refuses or fails"
	insideOut   = "provider fails in a 200"
	cutsShort   = "provider cuts its answer"
	breaksJSON  = "provider sends broken JSON"
	tellsNone   = "provider tells no usage"
	names       = "pictures"
)

// manner is how a call goes wrong on purpose: what its client does, and what the stub is told.
type manner struct {
	name     string
	faults   []string      // headers for the stub, name and value in turn
	patience time.Duration // of the client; 0: as long as any
	hastily  bool          // it leaves when it has the last event, and does not wait for the connection's end
	declined bool          // the provider does nothing that costs
	untold   bool          // the provider tells no usage
	pictures int           // in the message
	inline   int           // bytes of each in base64; 0: by URL
	low      bool          // in low detail
}

// patientFor is the longest first_byte_timeout that a demo waits for.
const patientFor = 10 * time.Second

// misbehave gives an ask a manner. What was planned of it stays, but where they exclude each
// other.
func (p *planner) misbehave(a *ask, protocol judge.Protocol) {
	r := p.rng
	a.hangUp = 0
	millis := func(low, high int) (time.Duration, string) {
		n := low + r.IntN(high-low)
		return time.Duration(n) * time.Millisecond, strconv.Itoa(n)
	}
	switch kind := r.IntN(14); kind {
	case 0, 1:
		_, linger := millis(0, 51)
		a.stream, a.manner = true, manner{name: leavesAtEnd, hastily: true, faults: []string{"X-Stub-Linger-Ms", linger}}
	case 2:
		patience, _ := millis(80, 400)
		a.manner = manner{name: leavesEarly, patience: patience, faults: []string{"X-Stub-Delay-Ms", "1000"}}
	case 3:
		a.stream, a.manner, a.hangUp = true, manner{name: leavesMid}, 1+r.IntN(a.answer)
	case 4:
		patience, _ := millis(300, 800)
		a.stream, a.manner = true, manner{name: tiresOf, patience: patience, faults: []string{"X-Stub-Chunk-Delay-Ms", "100"}}
	case 5:
		a.manner = p.hangs()
	case 6, 7:
		status := []string{"400", "401", "403", "404", "500", "502", "503", "529"}[r.IntN(8)]
		a.manner = manner{name: refuses, declined: true, faults: []string{"X-Stub-Status", status}}
	case 8:
		a.manner = manner{name: insideOut, declined: true, faults: []string{"X-Stub-Error-Inside", "true"}}
	case 9:
		a.manner = manner{name: cutsShort, faults: []string{"X-Stub-Truncate-After-Chunks", strconv.Itoa(1 + r.IntN(a.answer))}}
	case 10:
		a.manner = manner{name: breaksJSON, untold: !a.stream, faults: []string{"X-Stub-Broken-Json", "true"}}
	case 11:
		a.manner = manner{name: tellsNone, untold: true, faults: []string{"X-Stub-Omit-Usage", "true"}}
	case 12:
		a.manner = p.names(protocol)
	default:
		a.manner = manner{name: politely}
	}
}

// hangs is a provider that never answers. The gateway's own patience is waited for where that is
// short, and not often.
func (p *planner) hangs() manner {
	m := manner{name: unanswered, faults: []string{"X-Stub-Hang", "true"}, patience: time.Duration(200+p.rng.IntN(300)) * time.Millisecond}
	if p.firstByte > 0 && p.firstByte <= patientFor && p.rng.IntN(4) == 0 {
		m.name, m.patience = timesOut, 0
	}
	return m
}

// names is a message that names pictures, or holds them. Gemini's stub takes texts alone.
func (p *planner) names(protocol judge.Protocol) manner {
	if protocol == judge.ProtocolGemini {
		return manner{name: politely}
	}
	m := manner{name: names, pictures: 1 + p.rng.IntN(4), low: p.rng.IntN(2) == 0}
	if p.rng.IntN(2) == 0 {
		m.inline = 1_000 + p.rng.IntN(200_000)
	}
	return m
}
