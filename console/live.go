package console

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
)

// liveData is the part of it that refreshes itself.
type liveData struct {
	Address string // of this part, for who asks again and again
	Events  string // the same as a stream
	Sums    api.UsageSums
	Refused int64
	Pending *int64
	Limits  []api.Limit // the fullest
	First   *firstCall  // until a call was seen
}

// firstCall shows somebody how to begin, and that it worked.
type firstCall struct {
	Gateway, Model string
	Seen           bool
	Tokens         int64
}

// live is the part of the overview that refreshes itself.
func (s *site) live(v *visit) error {
	d, err := s.liveNow(v)
	if err != nil {
		return err
	}
	return s.part(v, "live", d)
}

func (s *site) liveNow(v *visit) (liveData, error) {
	w, err := v.viewOf()
	if err != nil {
		return liveData{}, err
	}
	trend, err := s.trend(v.r.Context(), v, w)
	if err != nil {
		return liveData{}, err
	}
	return s.liveOf(v.r.Context(), v, w, trend)
}

const (
	// eventsLife is how long one stream lasts. The browser asks for the next at once, so that every few
	// seconds the session is refreshed and looked at again, no stream outlasts a server that drains, and
	// the gateway needs no route of its own for it.
	eventsLife = 9 * time.Second
	// lookEvery is the pause between two looks: each is two calls of the control API as the viewer.
	lookEvery = 2 * time.Second
	// mostStreams is how many browsers may have a stream of one process; others ask again and again.
	mostStreams = 256
)

// liveEvents streams the same part as server-sent events (WHATWG HTML section 9.2), one whenever it has
// changed. A browser that comes again says what it has by the id of the last event.
func (s *site) liveEvents(v *visit) error {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		return &shown{status: http.StatusServiceUnavailable, title: "Not available", text: "Too many pages are open just now."}
	}
	d, err := s.liveNow(v)
	if err != nil {
		return err
	}
	pageHeaders(v.w.Header(), "text/event-stream")
	ctx, cancel := context.WithTimeout(v.r.Context(), eventsLife)
	defer cancel()
	next := time.NewTicker(lookEvery)
	defer next.Stop()
	for last := v.r.Header.Get("Last-Event-ID"); ; {
		if last, err = s.send(v, d, last); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
		}
		if d, err = s.liveAgain(v, d); err != nil || ctx.Err() != nil {
			return nil // the next stream says it in its status
		}
	}
}

// liveAgain looks once more, at the viewer's limits too. Where a part is away, what was seen stands.
func (s *site) liveAgain(v *visit, before liveData) (liveData, error) {
	me, err := v.api.GetMeWithResponse(v.r.Context())
	if err == nil {
		v.me, err = client.Answer(me.JSON200)
	}
	now := before
	if err == nil {
		now, err = s.liveNow(v)
	}
	if refused, ok := errors.AsType[*client.Error](err); ok && refused.Status == http.StatusUnauthorized {
		return before, err
	}
	if err != nil {
		return before, nil
	}
	return now, nil
}

// send writes the part as an event unless the browser has it, and gives the id of what it has then.
func (s *site) send(v *visit, d liveData, last string) (string, error) {
	text, err := s.pages.render("live", page{Data: d})
	if err != nil {
		return last, err
	}
	sum := sha256.Sum256(text)
	id := base64.RawURLEncoding.EncodeToString(sum[:9])
	var event bytes.Buffer
	if event.WriteString(":\n\n"); id != last { // a comment keeps what is between from closing
		fmt.Fprintf(&event, "retry: 500\nid: %s\nevent: live\n", id)
		for line := range bytes.Lines(bytes.TrimSpace(text)) {
			fmt.Fprintf(&event, "data: %s\n", bytes.TrimRight(line, "\r\n"))
		}
		event.WriteString("\n")
	}
	if _, err = v.w.Write(event.Bytes()); err == nil {
		err = http.NewResponseController(v.w).Flush()
	}
	if err != nil {
		return id, fmt.Errorf("send event: %w", err)
	}
	return id, nil
}

// mostLevels is how many limits the overview shows.
const mostLevels = 4

func (s *site) liveOf(ctx context.Context, v *visit, w view, trend api.UsageTrend) (liveData, error) {
	d := liveData{Sums: trend.Total, Refused: trend.Total.TotalEvents - trend.Total.AllowedEvents, Pending: trend.PendingEvents}
	address := url.Values{"of": {w.of}, "range": {w.Span.Name}}
	if v.me.Limits != nil {
		d.Limits = slices.DeleteFunc(slices.Clone(*v.me.Limits), func(l api.Limit) bool { return l.Capacity <= 0 })
		slices.SortStableFunc(d.Limits, func(a, b api.Limit) int { return cmp.Compare(b.Level/b.Capacity, a.Level/a.Capacity) })
		d.Limits = d.Limits[:min(len(d.Limits), mostLevels)]
	}
	waiting := v.r.URL.Query().Get("first") == "1"
	if trend.Total.TotalEvents == 0 || waiting {
		first, err := s.firstOf(ctx, v, waiting)
		if err != nil {
			return d, err
		}
		if d.First = first; first != nil {
			address.Set("first", "1")
		}
	}
	d.Address, d.Events = path+"/live?"+address.Encode(), path+"/live/events?"+address.Encode()
	return d, nil
}

// firstOf is for who never called; waiting says that their page has seen none.
func (s *site) firstOf(ctx context.Context, v *visit, waiting bool) (*firstCall, error) {
	since := time.Now().Add(-spans()[len(spans())-1].length)
	own, err := get[api.UsageGroups](ctx, v.api, "/api/v1/me/usage", url.Values{"from": {since.UTC().Format(time.RFC3339)}})
	if err != nil {
		return nil, fmt.Errorf("look for calls: %w", err)
	}
	if own.Total.TotalEvents > 0 && !waiting || s.cfg.Model == "" {
		return nil, nil
	}
	return &firstCall{Gateway: s.cfg.PublicURL, Model: s.cfg.Model, Seen: own.Total.TotalEvents > 0, Tokens: own.Total.TotalTokens}, nil
}
