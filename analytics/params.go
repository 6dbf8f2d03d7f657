package analytics

import (
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// Defaults and clamps of the contract (§5).
const (
	usageLimit, usageLimitMost         = 20, 200
	reportMinutes, reportMinutesMost   = 60, 1440
	reportLimit, reportLimitMost       = 5000, 5000
	baselineDefault, baselineMost      = 4, 24
	thresholdDefault, thresholdLeast   = 2.0, 1.0
	topUsersMost                       = 5
	exportMinutesDefault               = 60
	longestParameter, longestRequestID = 256, 128
)

var (
	integer   = regexp.MustCompile(`^[+-]?[0-9]{1,64}$`)
	requestID = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,` + strconv.Itoa(longestRequestID) + `}$`)
	account   = regexp.MustCompile(`^(?:user|org):[A-Za-z0-9._:-]{1,100}$`)
)

func bad(format string, args ...any) *httpapi.Error {
	return httpapi.Fail(http.StatusBadRequest, format, args...)
}

// params are the parameters of one request; of one given twice the first counts.
type params struct{ values url.Values }

func parseParams(rawQuery string) (params, error) {
	values, err := url.ParseQuery(rawQuery)
	if err != nil {
		return params{}, bad("malformed query string")
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

// provider is the required parameter, trimmed and lower-case, one of known.
func (p params) provider(known []string) (string, error) {
	text, err := p.text("provider")
	if err != nil {
		return "", err
	}
	if text == "" {
		return "", bad("provider is required")
	}
	return knownProvider(text, known)
}

func knownProvider(text string, known []string) (string, error) {
	name := strings.ToLower(text)
	if !slices.Contains(known, name) {
		return "", bad("unknown provider; known are %s", strings.Join(known, ", "))
	}
	return name, nil
}

// scope is the user whose rows the caller may see: themselves, or with ADMIN whom they
// names, all (empty) when nobody.
func (p params) scope(caller principal.Principal) (string, error) {
	text, err := p.text("userId")
	if err != nil {
		return "", err
	}
	if text == "" {
		if caller.Is(principal.RoleAdmin) {
			return "", nil
		}
		return caller.UserID, nil
	}
	id, err := uuid.Parse(text)
	if err != nil || len(text) != 36 {
		return "", bad("invalid userId")
	}
	if user := id.String(); user == caller.UserID || caller.Is(principal.RoleAdmin) {
		return user, nil
	}
	return "", httpapi.Fail(http.StatusForbidden, "userId is not the caller's")
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

// usageParams are those of the usage list.
type usageParams struct {
	filter Filter
	limit  int
}

func parseUsage(rawQuery string, caller principal.Principal, known []string) (usageParams, error) {
	p, err := parseParams(rawQuery)
	if err != nil {
		return usageParams{}, err
	}
	var u usageParams
	if u.filter.Provider, err = p.provider(known); err != nil {
		return usageParams{}, err
	}
	limit, err := p.integer("limit", usageLimit)
	if err != nil {
		return usageParams{}, err
	}
	u.limit = int(min(max(limit, 1), usageLimitMost))
	if u.filter.RequestID, err = p.matching("requestId", requestID); err != nil {
		return usageParams{}, err
	}
	u.filter.UserID, err = p.scope(caller)
	return u, err
}

// reportParams are those of the report, and of anomalies with the last two.
type reportParams struct {
	filter    Filter // From and To are the window
	limit     int
	window    time.Duration
	baselines int
	threshold float64
}

func parseReport(rawQuery string, caller principal.Principal, known []string, now time.Time) (reportParams, error) {
	p, err := parseParams(rawQuery)
	if err != nil {
		return reportParams{}, err
	}
	var r reportParams
	if r.filter.Provider, err = p.provider(known); err != nil {
		return reportParams{}, err
	}
	minutes, err := p.positive("windowMinutes", reportMinutes, reportMinutesMost)
	if err != nil {
		return reportParams{}, err
	}
	if r.limit, err = p.positive("limit", reportLimit, reportLimitMost); err != nil {
		return reportParams{}, err
	}
	if r.filter.UserID, err = p.scope(caller); err != nil {
		return reportParams{}, err
	}
	r.window = time.Duration(minutes) * time.Minute
	r.filter.To = now.UTC().Truncate(time.Millisecond)
	r.filter.From = r.filter.To.Add(-r.window)
	return r, nil
}

func parseAnomalies(rawQuery string, caller principal.Principal, known []string, now time.Time) (reportParams, error) {
	r, err := parseReport(rawQuery, caller, known, now)
	if err != nil {
		return reportParams{}, err
	}
	p, err := parseParams(rawQuery)
	if err != nil {
		return reportParams{}, err
	}
	if r.baselines, err = p.positive("baselineWindows", baselineDefault, baselineMost); err != nil {
		return reportParams{}, err
	}
	r.threshold = thresholdDefault
	text, err := p.text("thresholdMultiplier")
	if err != nil {
		return reportParams{}, err
	}
	if text != "" {
		r.threshold, err = strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(r.threshold) || math.IsInf(r.threshold, 0) {
			return reportParams{}, bad("thresholdMultiplier must be a number")
		}
	}
	r.threshold = max(r.threshold, thresholdLeast)
	return r, nil
}

// parseExport reads the filter of an export. Unlike elsewhere the provider may be left
// out, since books are compared over all of them.
func parseExport(rawQuery string, caller principal.Principal, known []string, now time.Time) (Filter, error) {
	p, err := parseParams(rawQuery)
	if err != nil {
		return Filter{}, err
	}
	var f Filter
	text, err := p.text("provider")
	if err != nil {
		return Filter{}, err
	}
	if text != "" {
		if f.Provider, err = knownProvider(text, known); err != nil {
			return Filter{}, err
		}
	}
	if f.From, err = p.moment("from"); err != nil {
		return Filter{}, err
	}
	if f.From.IsZero() {
		f.From = now.UTC().Add(-exportMinutesDefault * time.Minute)
	}
	if f.To, err = p.moment("to"); err != nil {
		return Filter{}, err
	}
	if f.Account, err = p.matching("account", account); err != nil {
		return Filter{}, err
	}
	f.UserID, err = p.scope(caller)
	return f, err
}
