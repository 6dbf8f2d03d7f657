package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCompaniesThatAreRefused before anything is changed, with what is wrong.
func TestCompaniesThatAreRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"organisations: [{name: a, taems: [x]}]":                                                    "taems",
		"organisations: [{teams: [x]}]":                                                             "organisations[0].name",
		"organisations: [{name: a}, {name: a}]":                                                     "organisations[1].name",
		"organisations: [{name: a, members: [{user: b, team: x}]}]":                                 `members[0].team: "x" is not among`,
		"organisations: [{name: a, members: [{user: b, role: KING}]}]":                              `"KING" is neither`,
		"organisations: [{name: a, members: [{role: OWNER}]}]":                                      "members[0].user",
		"organisations: [{name: a, members: [{user: b}, {user: b}]}]":                               "members[1].user",
		"organisations: [{name: a, budgets: [{tokens: 5}]}]":                                        "budgets[0].provider",
		"organisations: [{name: a, budgets: [{provider: openai}]}]":                                 "budgets[0].tokens",
		"organisations: [{name: a, budgets: [{provider: x, tokens: 1}, {provider: x, tokens: 2}]}]": "budgets[1].provider",
		"organisations: 7":                      "",
		"# " + strings.Repeat("x", mostCompany): "bytes",
	} {
		if _, err := readCompany(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: want an error with %q, got %v", text, want, err)
		}
	}
}

func TestTheExampleCompanyIsRead(t *testing.T) {
	t.Parallel()
	file, err := os.Open(filepath.Join("..", "..", "docs", "company.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	c, err := readCompany(file)
	if err != nil || len(c.Organisations) != 1 || len(c.Organisations[0].Teams) != 3 || len(c.Organisations[0].Members) != 3 ||
		len(c.Organisations[0].Budgets) != 2 {
		t.Errorf("want one organisation with three teams and two budgets, got %+v, %v", c, err)
	}
}
