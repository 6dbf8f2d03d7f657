// Package notice is what people want to be told beside the request path: that a pool or a spend limit
// is used up to a threshold, or that somebody's use is not what it was. analytics publishes notices
// on a JetStream stream of their own, each once, and delivers them as webhooks.
package notice

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/natsconn"
)

// JetStream names.
const (
	Stream        = "LEAKY_NOTICES"
	subjectPrefix = "leaky.notice.v1."
	Subjects      = subjectPrefix + "*"
)

// Kinds of notices, which are their CloudEvents types.
const (
	KindThreshold = "leaky.threshold.v1"
	KindAnomaly   = "leaky.anomaly.v1"
)

// Notice is a CloudEvent 1.0 in JSON.
type Notice struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"` // of what it tells of: the same is told once
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"`
	Data            any       `json:"data"`
}

// New is a notice with an id made of what it is about.
func New(kind string, at time.Time, data any, about ...string) Notice {
	sum := sha256.New()
	for _, part := range append([]string{kind}, about...) {
		fmt.Fprintf(sum, "%d:%s", len(part), part)
	}
	return Notice{SpecVersion: "1.0", ID: hex.EncodeToString(sum.Sum(nil)[:16]), Source: "/analytics", Type: kind, Time: at.UTC(),
		DataContentType: "application/json", Data: data}
}

// Threshold is the data of KindThreshold. Amounts are tokens.
type Threshold struct {
	Account   string `json:"account"`
	Provider  string `json:"provider,omitzero"` // of a pool
	Rule      string `json:"rule,omitzero"`     // of a limit
	Percent   int    `json:"percent"`           // the threshold that was reached: 50, 80 or 100
	Used      int64  `json:"used"`
	Capacity  int64  `json:"capacity"`
	Window    string `json:"window"`             // which one; the same threshold of another window is another notice
	ResetTime string `json:"resetTime,omitzero"` // when the window ends; a pool that was bought never does
}

// Anomaly is the data of KindAnomaly.
type Anomaly struct {
	Dimension string    `json:"dimension"` // account, key or model
	Name      string    `json:"name"`
	Hour      time.Time `json:"hour"` // begin of the hour that is unusual
	Tokens    int64     `json:"tokens"`
	Median    float64   `json:"median"`  // of the same hour of the weeks before
	MAD       float64   `json:"mad"`     // median absolute deviation of them
	Score     float64   `json:"score"`   // modified z-score; negative: less than usual
	Support   int       `json:"support"` // weeks that it is judged by
}

const (
	// maxAge is longer than the longest window of a limit, a month: the stream remembers what was told.
	maxAge   = 62 * 24 * time.Hour
	maxBytes = 1 << 30
)

// EnsureStream gives the stream, made if need be. Each notice has a subject of its own, so that the
// stream itself knows what was told before.
func EnsureStream(ctx context.Context, js jetstream.JetStream) (jetstream.Stream, error) {
	have, err := natsconn.MakeStream(ctx, js, jetstream.StreamConfig{Name: Stream, Subjects: []string{Subjects}, MaxAge: maxAge,
		MaxBytes: maxBytes, Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld, AllowDirect: true})
	if err != nil {
		return nil, fmt.Errorf("ensure stream %s: %w", Stream, err)
	}
	return have, nil
}

// Publish tells, unless the same was told before; then it is false.
func Publish(ctx context.Context, js jetstream.JetStream, n Notice) (told bool, err error) {
	data, err := json.Marshal(n)
	if err != nil {
		return false, fmt.Errorf("encode notice: %w", err)
	}
	_, err = js.Publish(ctx, subjectPrefix+n.ID, data, jetstream.WithExpectLastSequencePerSubject(0), jetstream.WithExpectStream(Stream))
	if refused, ok := errors.AsType[*jetstream.APIError](err); ok && refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("publish notice: %w", err)
	}
	return true, nil
}
