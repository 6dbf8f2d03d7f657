// Command licences says under which licence each module is that the product is built from, and fails
// where one is unknown or not among those that may be shipped with it. `make licences` runs it.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// allowed are the licences, by their SPDX names, that only ask to be named.
func allowed() []string {
	return []string{"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "MPL-2.0", "Unlicense"}
}

// leastCover is the percentage of a file's text that must be a known licence.
const leastCover = 75

type module struct {
	Path, Version, Dir string
	Main               bool
}

// finding is a module with its licences.
type finding struct {
	module
	licences []string
}

func main() {
	found, err := scan(".", "./cmd/leaky")
	for _, f := range found {
		fmt.Printf("%-24s %s %s\n", strings.Join(f.licences, " "), f.Path, f.Version)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

// scan looks at each module that a package is built from, from the module in dir.
func scan(dir, pkg string) ([]finding, error) {
	modules, err := modulesOf(dir, pkg)
	if err != nil {
		return nil, err
	}
	var found []finding
	var wrong []error
	for _, m := range modules {
		licences, err := licencesOf(m.Dir)
		if err == nil {
			err = permitted(licences)
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s %s: %w", m.Path, m.Version, err))
		}
		found = append(found, finding{m, licences})
	}
	return found, errors.Join(wrong...)
}

// modulesOf are the modules of a program's packages, without its own and the standard library.
func modulesOf(dir, pkg string) ([]module, error) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}", pkg)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list modules: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(lines)
	var all []module
	for _, line := range slices.Compact(lines) {
		if parts := strings.Fields(line); len(parts) == 3 {
			all = append(all, module{Path: parts[0], Version: parts[1], Dir: parts[2]})
		}
	}
	return all, nil
}

// licencesOf reads the files at a module's top that say how it may be used.
func licencesOf(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		upper := strings.ToUpper(e.Name())
		if e.IsDir() || !strings.HasPrefix(upper, "LICENSE") && !strings.HasPrefix(upper, "LICENCE") && !strings.HasPrefix(upper, "COPYING") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		cover := licensecheck.Scan(text)
		for _, match := range cover.Match {
			names = append(names, match.ID)
		}
		if cover.Percent < leastCover {
			names = append(names, "unknown")
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// permitted refuses what is unknown or asks for more than to be named.
func permitted(licences []string) error {
	if len(licences) == 0 {
		return errors.New("no licence file")
	}
	for _, name := range licences {
		if !slices.Contains(allowed(), name) {
			return fmt.Errorf("licence %s is not among those that may be shipped", name)
		}
	}
	return nil
}
