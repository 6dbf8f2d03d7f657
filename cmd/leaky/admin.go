package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/local/stack"
	"github.com/leaky-tokens/leaky-tokens/internal/secretfile"
)

// adminClient calls the JSON endpoints of a running gateway as an administrator: with the
// token in LEAKY_ADMIN_TOKEN, else by logging in as LEAKY_ADMIN_USERNAME with
// LEAKY_ADMIN_PASSWORD, else as the first administrator of the state folder.
type adminClient struct {
	gateway string
	token   string
	http    *http.Client
}

// adminTimeout bounds one call.
const adminTimeout = 30 * time.Second

// errAdminLogin says how to become an administrator.
var errAdminLogin = errors.New("no administrator is known here: set LEAKY_ADMIN_TOKEN, or LEAKY_ADMIN_USERNAME and LEAKY_ADMIN_PASSWORD, or run this beside the state folder (LEAKY_STATE_DIR)")

// openAdmin finds the gateway (LEAKY_GATEWAY_URL, else that of the configuration) and logs in.
func openAdmin(ctx context.Context, c *cli) (*adminClient, error) {
	a := &adminClient{gateway: strings.TrimSuffix(os.Getenv("LEAKY_GATEWAY_URL"), "/"), token: os.Getenv("LEAKY_ADMIN_TOKEN"),
		http: &http.Client{Timeout: adminTimeout}}
	l, err := openLocal(c)
	if err != nil {
		return nil, err
	}
	if a.gateway == "" {
		plan, err := l.plan(false)
		if err != nil {
			return nil, err
		}
		a.gateway = plan.Gateway()
	}
	if a.token != "" {
		return a, nil
	}
	who, err := administrator(l.dir)
	if err != nil {
		return nil, err
	}
	var session struct {
		Token string `json:"token"`
	}
	if err := a.call(ctx, http.MethodPost, "/api/v1/auth/login", who, &session); err != nil {
		return nil, fmt.Errorf("log in as the administrator: %w", err)
	}
	a.token = session.Token
	return a, nil
}

type administratorLogin struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

func administrator(stateDir string) (who administratorLogin, err error) {
	who = administratorLogin{Username: os.Getenv("LEAKY_ADMIN_USERNAME"), Password: os.Getenv("LEAKY_ADMIN_PASSWORD")}
	if who.Username != "" && who.Password != "" {
		return who, nil
	}
	path := stack.AdminFile(stateDir)
	text, err := secretfile.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return who, errAdminLogin
	}
	if err != nil {
		return who, err
	}
	if err := json.Unmarshal(text, &who); err != nil {
		return who, fmt.Errorf("%s is not JSON", path)
	}
	return who, nil
}

// call sends in as JSON (nil: no body) and decodes the answer into out (nil: it is dropped).
// A refusal is an error with the message of the service.
func (a *adminClient) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader = http.NoBody
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.gateway+path, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return fmt.Errorf("is the stack up (leaky up)? %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode/100 != 2 {
		var problem httpapi.Problem
		if json.Unmarshal(text, &problem) == nil && problem.Message != "" {
			return fmt.Errorf("%s %s: %d: %s", method, path, resp.StatusCode, problem.Message)
		}
		return fmt.Errorf("%s %s: status %d", method, path, resp.StatusCode)
	}
	if out == nil || len(text) == 0 {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("%s %s: parse answer: %w", method, path, err)
	}
	return nil
}

// output is the format that a command prints in; embed it.
type output struct {
	Output string `short:"o" enum:"table,json" default:"table" help:"Format: ${enum}."`
}

// print writes value as JSON, or rows under a header as a table.
func (o output) print(out io.Writer, value any, header []string, rows [][]string) error {
	if o.Output == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(value)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}
