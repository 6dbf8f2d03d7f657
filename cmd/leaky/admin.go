package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/internal/local/stack"
	"github.com/leaky-tokens/leaky-tokens/internal/secretfile"
)

// errAdminLogin says how to become an administrator.
var errAdminLogin = errors.New("no administrator is known here: set LEAKY_ADMIN_TOKEN, or LEAKY_ADMIN_USERNAME and LEAKY_ADMIN_PASSWORD, or run this beside the state folder (LEAKY_STATE_DIR)")

// openAdmin is a client of a running gateway (LEAKY_GATEWAY_URL, else that of the
// configuration) as an administrator: with the token in LEAKY_ADMIN_TOKEN, else by logging in as
// LEAKY_ADMIN_USERNAME with LEAKY_ADMIN_PASSWORD, else as the first administrator of the state folder.
func openAdmin(c *cli) (*client.Client, error) {
	l, err := openLocal(c)
	if err != nil {
		return nil, err
	}
	gateway := os.Getenv("LEAKY_GATEWAY_URL")
	if gateway == "" {
		plan, err := l.plan(false)
		if err != nil {
			return nil, err
		}
		gateway = plan.Gateway()
	}
	who := client.Bearer(os.Getenv("LEAKY_ADMIN_TOKEN"))
	if os.Getenv("LEAKY_ADMIN_TOKEN") == "" {
		name, err := administrator(l.dir)
		if err != nil {
			return nil, err
		}
		who = client.Login(name.Username, name.Password)
	}
	return client.New(client.Config{Gateway: gateway, Credential: who})
}

// told is err for a person: a gateway that is not there may not have been started.
func told(err error) error {
	if errors.Is(err, client.ErrUnreachable) {
		return fmt.Errorf("is the stack up (leaky up)? %w", err)
	}
	return err
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
