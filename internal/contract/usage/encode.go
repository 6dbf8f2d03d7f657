package usage

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Encode wraps an event; source names the service that publishes, e.g. "/meter". It
// writes the JSON by hand, since every request pays for it; the result is what
// encoding/json would write.
func Encode(e Event, source, correlationID, traceParent string) ([]byte, error) {
	if y := e.Timestamp.UTC().Year(); y < 0 || y > 9999 {
		return nil, fmt.Errorf("encode usage event: year %d", y)
	}
	w := writer{b: make([]byte, 0, 1024)}
	w.text(`{"specversion":`, "1.0").text(`,"id":`, e.ID()).text(`,"source":`, source).text(`,"type":`, TypeUsage)
	w.time(`,"time":`, e.Timestamp.UTC()).text(`,"datacontenttype":`, "application/json")
	w.optional(`,"correlationid":`, correlationID).optional(`,"traceparent":`, traceParent)
	w.b = append(w.b, `,"data":`...)
	w.event(&e)
	return append(w.b, '}'), nil
}

// writer appends JSON.
type writer struct{ b []byte }

func (w *writer) event(e *Event) {
	w.text(`{"requestId":`, e.RequestID).kind(`,"version":`, e.Version).text(`,"userId":`, e.UserID)
	w.optional(`,"orgId":`, e.OrgID).optional(`,"team":`, e.Team).optional(`,"keyId":`, e.KeyID).optional(`,"tier":`, e.Tier)
	w.optional(`,"endUser":`, e.EndUser).optional(`,"session":`, e.Session).tags(e.Tags)
	w.text(`,"account":`, e.Account).text(`,"route":`, e.Route).text(`,"provider":`, e.Provider).text(`,"modelAsked":`, e.ModelAsked)
	w.optional(`,"modelServed":`, e.ModelServed)
	w.number(`,"input":`, e.Input).number(`,"output":`, e.Output).number(`,"cached":`, e.Cached)
	w.kind(`,"cacheWrite5m":`, e.CacheWrite5m).kind(`,"cacheWrite1h":`, e.CacheWrite1h).kind(`,"toolInput":`, e.ToolInput)
	w.number(`,"reasoning":`, e.Reasoning).kind(`,"audio":`, e.Audio).kind(`,"audioOutput":`, e.AudioOutput)
	w.number(`,"heldTokens":`, e.Held).number(`,"tokens":`, e.Charged)
	w.optional(`,"priceVersion":`, e.PriceVersion).number(`,"costMicros":`, e.CostMicros).optional(`,"currency":`, e.Currency)
	w.text(`,"source":`, string(e.Source)).optional(`,"pool":`, string(e.Pool)).flag(`,"allowed":`, e.Allowed).flag(`,"stream":`, e.Stream)
	w.number(`,"status":`, int64(e.Status)).optional(`,"reason":`, e.Reason)
	w.kind(`,"skipped":`, e.Skipped).kind(`,"attempts":`, e.Attempts)
	w.number(`,"latencyMs":`, e.LatencyMS).number(`,"firstByteMs":`, e.FirstByteMS)
	w.time(`,"timestamp":`, e.Timestamp)
	w.b = append(w.b, '}')
}

func (w *writer) text(name, value string) *writer {
	w.b = append(w.b, name...)
	if safe(value) {
		w.b = append(append(append(w.b, '"'), value...), '"')
		return w
	}
	quoted, _ := json.Marshal(value) // a string always encodes
	w.b = append(w.b, quoted...)
	return w
}

// safe says that a text needs no escape: encoding/json also escapes <, > and &.
func safe(value string) bool {
	for i := range len(value) {
		if c := value[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

func (w *writer) tags(all map[string]string) {
	opening := `,"tags":{`
	for _, name := range slices.Sorted(maps.Keys(all)) {
		w.text(opening, name).text(":", all[name])
		opening = ","
	}
	if len(all) > 0 {
		w.b = append(w.b, '}')
	}
}

func (w *writer) optional(name, value string) *writer {
	if value == "" {
		return w
	}
	return w.text(name, value)
}

func (w *writer) number(name string, value int64) *writer {
	w.b = strconv.AppendInt(append(w.b, name...), value, 10)
	return w
}

// kind is a number that is left out when it is zero.
func (w *writer) kind(name string, value int64) *writer {
	if value == 0 {
		return w
	}
	return w.number(name, value)
}

func (w *writer) flag(name string, value bool) *writer {
	w.b = strconv.AppendBool(append(w.b, name...), value)
	return w
}

func (w *writer) time(name string, value time.Time) *writer {
	w.b = append(append(w.b, name...), '"')
	w.b = append(value.AppendFormat(w.b, time.RFC3339Nano), '"')
	return w
}
