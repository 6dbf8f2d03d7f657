package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWhatIsShippedMayBe: each module of the program has a licence that lets it be shipped.
func TestWhatIsShippedMayBe(t *testing.T) {
	t.Parallel()
	found, err := scan("../..", "./cmd/leaky")
	if err != nil {
		t.Error(err)
	}
	if len(found) < 30 {
		t.Errorf("looked at %d modules", len(found))
	}
}

func TestWhatMayNotBeShippedIsRefused(t *testing.T) {
	t.Parallel()
	mit, err := os.ReadFile("../../LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	const copyleft = `This program is free software: you can redistribute it and/or modify it under the terms of the GNU
General Public License as published by the Free Software Foundation, either version 3 of the License, or (at your
option) any later version. This program is distributed in the hope that it will be useful, but WITHOUT ANY WARRANTY;
without even the implied warranty of MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE. See the GNU General Public
License for more details.`
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"ours":             {map[string]string{"LICENSE": string(mit)}, ""},
		"none":             {map[string]string{"README": "free for all"}, "no licence file"},
		"words of its own": {map[string]string{"LICENSE.txt": "Use it as you like, but not on Sundays."}, "unknown"},
		"copyleft":         {map[string]string{"COPYING": copyleft}, "GPL"},
		"one of two":       {map[string]string{"LICENSE": string(mit), "LICENSE.gpl": copyleft}, "GPL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for file, text := range c.files {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			licences, err := licencesOf(dir)
			if err == nil {
				err = permitted(licences)
			}
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("want %q, got %v (%v)", c.want, err, licences)
			}
		})
	}
}
