package analytics

import (
	"maps"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/wording"
)

// Defaults and clamps of the contract (§5).
const (
	usageLimit, usageLimitMost         = 20, 200
	reportMinutes, reportMinutesMost   = 60, 1440
	reportLimit, reportLimitMost       = 5000, 5000
	baselineDefault, baselineMost      = 4, 24
	thresholdDefault, thresholdLeast   = 2.0, 1.0
	topUsersMost                       = 5
	longestParameter, longestRequestID = 256, 128
)

var (
	integer   = regexp.MustCompile(`^[+-]?[0-9]{1,64}$`)
	requestID = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,` + strconv.Itoa(longestRequestID) + `}$`)
	keyID     = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)
	anyName   = regexp.MustCompile(`^[\x20-\x7E]{1,256}$`)
	account   = regexp.MustCompile(`^(?:user|org):[A-Za-z0-9._:-]{1,100}$`)
)

func bad(format string, args ...any) *httpapi.Error {
	return httpapi.Fail(http.StatusBadRequest, format, args...)
}

// params are the parameters of one request; of one given twice the first counts.
type params struct{ values url.Values }

// parseParams reads a query that may have the parameters of known. One that it does not know is
// refused: a filter that is misspelt would answer for everything.
func parseParams(rawQuery string, known ...string) (params, error) {
	values, err := url.ParseQuery(rawQuery)
	if err != nil {
		return params{}, bad("malformed query string")
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if slices.Contains(known, name) {
			continue
		}
		if near := wording.Nearest(name, known); near != "" {
			return params{}, bad("unknown parameter %.64q; did you mean %s?", name, near)
		}
		return params{}, bad("unknown parameter %.64q; known are %s", name, strings.Join(known, ", "))
	}
	return params{values: values}, nil
}

// text is a trimmed parameter, "" without one.
func (p params) text(name string) (string, error) {
	value := strings.TrimSpace(p.values.Get(name))
	if len(value) > longestParameter {
		return "", bad("%s is longer than %d bytes", name, longestParameter)
	}
	return value, nil
}

// integer is a whole number; an empty one is the default, and one beyond int64 is as far
// as int64 goes, since what is out of range is clamped and not refused.
func (p params) integer(name string, byDefault int) (int64, error) {
	text, err := p.text(name)
	switch {
	case err != nil:
		return 0, err
	case text == "":
		return int64(byDefault), nil
	case !integer.MatchString(text):
		return 0, bad("%s must be a whole number", name)
	}
	n, _ := strconv.ParseInt(text, 10, 64) // on overflow n is the nearest int64
	return n, nil
}

// positive is an integer where zero and less mean the default.
func (p params) positive(name string, byDefault, most int) (int, error) {
	n, err := p.integer(name, byDefault)
	if err != nil {
		return 0, err
	}
	if n <= 0 {
		n = int64(byDefault)
	}
	return int(min(n, int64(most))), nil
}

// provider is trimmed and lower-case, one of known; "" where it need not be there and is not.
func (p params) provider(known []string, needed bool) (string, error) {
	text, err := p.text("provider")
	if err != nil {
		return "", err
	}
	name := strings.ToLower(text)
	switch {
	case name == "" && (needed || p.values.Has("provider")):
		return "", bad("provider is required")
	case name != "" && !slices.Contains(known, name):
		return "", bad("unknown provider; known are %s", strings.Join(known, ", "))
	}
	return name, nil
}

// number is a finite decimal.
func (p params) number(name string, byDefault, least float64) (float64, error) {
	text, err := p.text(name)
	if err != nil || text == "" {
		return byDefault, err
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
		return 0, bad("%s must be a number", name)
	}
	return max(n, least), nil
}

// matching is an optional parameter of a fixed form.
func (p params) matching(name string, form *regexp.Regexp) (string, error) {
	text, err := p.text(name)
	if err == nil && text != "" && !form.MatchString(text) {
		err = bad("invalid %s", name)
	}
	return text, err
}

// moment is an optional RFC 3339 timestamp.
func (p params) moment(name string) (time.Time, error) {
	text, err := p.text(name)
	if err != nil || text == "" {
		return time.Time{}, err
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil || at.Year() < 1900 || at.Year() > 2299 {
		return time.Time{}, bad("%s must be an RFC 3339 time", name)
	}
	return at.UTC(), nil
}
