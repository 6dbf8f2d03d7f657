package usage

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of what an event may say.
const (
	MostTags     = 8
	LongestLabel = 128       // bytes of an end user, a session, a team or a tag's value
	longestEvent = 256 << 10 // bytes of a message
	longestText  = 512       // bytes of every other text

	// mostTokens is the largest count: above it a JSON number is no longer exact everywhere, and
	// a sum of many could overflow.
	mostTokens = 1 << 53
)

// TagName is what a tag may be called.
var TagName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)

// ErrMalformed says a message is not a usage event; such a message is poison.
var ErrMalformed = errors.New("malformed usage event")

// firstVersion are the members that version 1 called otherwise.
type firstVersion struct {
	Input        int64 `json:"inputTokens"`
	Output       int64 `json:"outputTokens"`
	Cached       int64 `json:"cachedTokens"`
	Reasoning    int64 `json:"reasoningTokens"`
	CacheWritten int64 `json:"cacheWrittenTokens"`
	ToolInput    int64 `json:"toolInputTokens"`
	AudioInput   int64 `json:"audioInputTokens"`
	AudioOutput  int64 `json:"audioOutputTokens"`
}

// Decode unwraps and checks an event of any version.
func Decode(message []byte) (Event, error) {
	if len(message) > longestEvent {
		return Event{}, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(message), longestEvent)
	}
	// Data is decoded in the same pass: every call pays for this.
	var env struct {
		SpecVersion string `json:"specversion"`
		ID          string `json:"id"`
		Type        string `json:"type"`
		Data        *struct {
			Event
			firstVersion
		} `json:"data"`
	}
	if err := json.Unmarshal(message, &env); err != nil {
		return Event{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if env.SpecVersion != "1.0" || env.Type != TypeUsage && env.Type != TypeUsageV1 || env.Data == nil {
		return Event{}, fmt.Errorf("%w: specversion %q, type %q, or no data", ErrMalformed, env.SpecVersion, env.Type)
	}
	e := env.Data.Event
	if env.Type == TypeUsageV1 {
		old := env.Data.firstVersion
		e.Input, e.Output, e.Cached, e.Reasoning = old.Input, old.Output, old.Cached, old.Reasoning
		e.CacheWrite5m, e.ToolInput, e.Audio, e.AudioOutput = old.CacheWritten, old.ToolInput, old.AudioInput, old.AudioOutput
	}
	if e.RequestID == "" || e.Version < 0 || env.ID != e.ID() {
		return Event{}, fmt.Errorf("%w: request id %q and version %d, event id %q", ErrMalformed, e.RequestID, e.Version, env.ID)
	}
	return e, e.check()
}

// check refuses what no publisher of ours says, before anything is made of it.
func (e *Event) check() error {
	if e.Provider == "" || strings.ContainsAny(e.Provider, ".*> \t\r\n") {
		return fmt.Errorf("%w: provider %q", ErrMalformed, e.Provider)
	}
	for _, count := range []int64{e.Input, e.Output, e.Cached, e.CacheWrite5m, e.CacheWrite1h, e.ToolInput, e.Reasoning, e.Audio,
		e.AudioOutput, e.Held, e.Charged, e.Skipped, e.Attempts, e.LatencyMS, e.FirstByteMS, e.CostMicros} {
		if count < 0 || count > mostTokens {
			return fmt.Errorf("%w: a count of %d, it must be 0 to 2^53", ErrMalformed, count)
		}
	}
	if e.Timestamp.IsZero() {
		return fmt.Errorf("%w: no timestamp", ErrMalformed)
	}
	for name, text := range map[string]string{"requestId": e.RequestID, "userId": e.UserID, "orgId": e.OrgID, "keyId": e.KeyID, "tier": e.Tier,
		"account": e.Account, "route": e.Route, "provider": e.Provider, "modelAsked": e.ModelAsked, "modelServed": e.ModelServed,
		"priceVersion": e.PriceVersion, "currency": e.Currency, "source": string(e.Source), "reason": e.Reason} {
		if len(text) > longestText {
			return fmt.Errorf("%w: %s of %d bytes, at most %d", ErrMalformed, name, len(text), longestText)
		}
	}
	return e.checkLabels()
}

// checkLabels checks what clients named.
func (e *Event) checkLabels() error {
	for name, text := range map[string]string{"endUser": e.EndUser, "session": e.Session, "team": e.Team} {
		if text != "" && !IsLabel(text) {
			return fmt.Errorf("%w: %s is too long or holds control characters", ErrMalformed, name)
		}
	}
	if len(e.Tags) > MostTags {
		return fmt.Errorf("%w: %d tags, at most %d", ErrMalformed, len(e.Tags), MostTags)
	}
	for name, value := range e.Tags {
		if !TagName.MatchString(name) || !IsLabel(value) {
			return fmt.Errorf("%w: tag %.40q", ErrMalformed, name)
		}
	}
	return nil
}

// IsLabel says that a text may be an end user, a session or a tag's value: 1 to LongestLabel bytes
// of UTF-8 without control characters.
func IsLabel(text string) bool {
	return text != "" && len(text) <= LongestLabel && utf8.ValidString(text) && !strings.ContainsFunc(text, unicode.IsControl)
}
