package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/topology"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// maxExplanation bounds what is read of an answer, in bytes.
const maxExplanation = 8 << 20

// explainOther asks a limiter what it would decide of a request of another Envoy just now.
func (k explainCommand) explainOther(ctx context.Context, c *cli) error {
	request, err := k.request()
	if err != nil {
		return err
	}
	base, transport := strings.TrimSuffix(k.At, "/"), http.DefaultTransport
	if base == "" {
		l, err := openLocal(c)
		if err != nil {
			return err
		}
		if base, transport, err = l.peers().API(topology.RateLimit, l.cfg.Services.RateLimit); err != nil {
			return err
		}
	}
	e, err := askExplanation(ctx, base, transport, request)
	if err != nil {
		return err
	}
	if k.Output == "json" {
		return printJSON(os.Stdout, e)
	}
	return printExplained(os.Stdout, e)
}

// request is a RateLimitRequest in JSON.
func (k explainCommand) request() ([]byte, error) {
	type entry struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	type descriptor struct {
		Entries []entry `json:"entries"`
		Hits    int64   `json:"hitsAddend"`
	}
	if k.Domain == "" {
		return nil, errors.New("--at asks about a request of another Envoy: say in which --domain")
	}
	var all []descriptor
	for _, text := range k.What {
		entries, err := entriesOf(text)
		if err != nil {
			return nil, err
		}
		d := descriptor{Hits: int64(k.Hits)}
		for _, e := range entries {
			d.Entries = append(d.Entries, entry{e.Key, e.Value})
		}
		all = append(all, d)
	}
	return json.Marshal(map[string]any{"domain": k.Domain, "descriptors": all})
}

func askExplanation(ctx context.Context, base string, transport http.RoundTripper, request []byte) (e ratelimit.Explained, err error) {
	ctx, cancel := context.WithTimeout(ctx, limiterTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, base+ratelimit.ExplainPath, bytes.NewReader(request))
	if err != nil {
		return e, err
	}
	response, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return e, fmt.Errorf("ask ratelimit: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxExplanation))
	if err != nil {
		return e, fmt.Errorf("ask ratelimit: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return e, fmt.Errorf("ratelimit at %s says: %s", base, strings.TrimSpace(string(text)))
	}
	if err := json.Unmarshal(text, &e); err != nil {
		return e, fmt.Errorf("read the answer of %s: %w", base, err)
	}
	return e, nil
}

func printExplained(out io.Writer, e ratelimit.Explained) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, d := range e.Descriptors {
		if d.Rule == nil {
			fmt.Fprintf(w, "%s\tno rule: %s\n", d.Descriptor, d.Why)
			continue
		}
		rule := d.Rule.Name
		if d.Rule.Line > 0 {
			rule += fmt.Sprintf(", line %d", d.Rule.Line)
		}
		fmt.Fprintf(w, "%s\trule %s\n\tmode\t%s\n", d.Descriptor, rule, d.Mode)
		if d.Bucket == "" {
			continue
		}
		stands := fmt.Sprintf("%d left after %d", d.Remaining, d.Hits)
		if d.Over {
			stands = fmt.Sprintf("over the limit with %d", d.Hits)
		}
		fmt.Fprintf(w, "\tlimit\t%.0f/%s, %s\n\tlevel\t%.6g, %s; %s until it is empty\n\tbucket\t%s\n", d.Rule.Limit, d.Rule.Unit,
			strings.ReplaceAll(d.Rule.Algorithm, "_", " "), d.Level, stands, seconds(d.ResetSeconds), d.Bucket)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	verdict := "admitted"
	switch {
	case e.Refused && e.RetryAfterSeconds < 0:
		verdict = "refused, however long it waits"
	case e.Refused:
		verdict = "refused; it may fit in " + seconds(e.RetryAfterSeconds).String()
	}
	_, err := fmt.Fprintf(out, "The request would be %s.\n", verdict)
	return err
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(time.Millisecond)
}
