package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/xds"
	"github.com/leaky-tokens/leaky-tokens/xds/history"
	"github.com/leaky-tokens/leaky-tokens/xds/server"
)

// configState is what `leaky status` says of the configuration.
type configState struct {
	Live     *xds.Status      `json:"live,omitempty"` // nil: xds does not answer
	Envoys   []server.Client  `json:"envoys,omitempty"`
	Version  *history.Version `json:"version,omitempty"`  // of the live one
	LastPush *history.Version `json:"lastPush,omitempty"` // if it was refused
}

// configuration looks at what is live, and the error is what is wrong with it.
func configuration(ctx context.Context, c *cli) (state configState, err error) {
	p, err := openControlPlane(ctx, c)
	if err != nil {
		return state, err
	}
	defer p.close()
	live, err := p.status(ctx)
	if err != nil {
		return state, err
	}
	state.Live = &live
	if state.Envoys, err = p.envoys(ctx); err != nil {
		return state, err
	}
	if all, err := p.versions(ctx); err == nil && len(all) > 0 {
		for _, v := range all {
			if v.Hash == live.Content {
				state.Version = &v
			}
		}
		if last := all[len(all)-1]; last.State == history.Refused {
			state.LastPush = &last
		}
	}
	var wrong []error
	if live.Refused != nil {
		wrong = append(wrong, fmt.Errorf("configuration: %w", refusal(*live.Refused)))
	}
	for _, e := range state.Envoys {
		for kind, no := range e.Refused {
			if live.Refused == nil || live.Refused.Node != e.Node {
				wrong = append(wrong, fmt.Errorf("envoy %s refuses %s %s: %s", e.Node, kind, no.Version, no.Message))
			}
		}
		if e.Unanswered > 0 {
			wrong = append(wrong, fmt.Errorf("envoy %s has not answered %d pushes", e.Node, e.Unanswered))
		}
	}
	return state, errors.Join(wrong...)
}

func (s configState) print(out io.Writer) {
	if s.Live == nil {
		return
	}
	var envoys []string
	for _, e := range s.Envoys {
		envoys = append(envoys, e.Node)
	}
	about := ""
	if s.Version != nil {
		about = fmt.Sprintf("version %d%s, ", s.Version.Number, by(s.Version.Who))
	}
	fmt.Fprintf(out, "Configuration: %s%s since %s, taken by %s.\n", about, s.Live.Version, s.Live.Since.Local().Format(time.DateTime),
		cmp.Or(strings.Join(envoys, ", "), "no Envoy"))
	if v := s.LastPush; v != nil {
		fmt.Fprintf(out, "The last change, version %d%s at %s, was refused: %s\n", v.Number, by(v.Who), v.At.Local().Format(time.DateTime),
			v.Reason)
	}
}

func by(who string) string {
	if who == "" {
		return ""
	}
	return " by " + who
}
