package limits

import (
	"errors"
	"fmt"
	"os"
)

// Empty is a set without rules.
func Empty(domain string) *Set { return &Set{domain: domain} }

// Text is a file of another domain, wherever it came from.
type Text struct {
	Name string // for errors
	YAML []byte
}

// Reading is how texts of other domains are read.
type Reading struct {
	Merge          bool // several texts may make one domain, in their order; else each has its own
	CalendarMonths bool // see Options
}

// ParseDomains reads texts of other domains.
func ParseDomains(texts []Text, how Reading) ([]*Set, error) {
	var (
		sets  []*Set
		errs  []error
		known = map[string]*Set{}
		from  = map[string]string{}
	)
	for _, text := range texts {
		o := Options{AnyKeys: true, File: text.Name, CalendarMonths: how.CalendarMonths}
		if how.Merge {
			o.into = known
		}
		set, err := ParseWith(text.YAML, o)
		switch {
		case err != nil:
			errs = append(errs, err)
		case known[set.domain] == nil:
			known[set.domain], from[set.domain] = set, text.Name
			sets = append(sets, set)
		case !how.Merge:
			errs = append(errs, &Error{File: text.Name, Line: 1, Column: 1,
				Message: fmt.Sprintf("the domain %q is %s's already; one file for each domain, or let them be merged", set.domain, from[set.domain])})
		}
	}
	return sets, errors.Join(errs...)
}

// LoadDomains reads files of domains that other Envoys ask in: their keys are whatever
// those send. Each file is one domain, and none is Domain.
func LoadDomains(paths []string) ([]*Set, error) {
	return ReadDomains(paths, func(path string) (string, error) {
		text, err := os.ReadFile(path)
		return string(text), err
	})
}

// ReadDomains is LoadDomains of what open gives for each path.
func ReadDomains(paths []string, open func(path string) (string, error)) ([]*Set, error) {
	var (
		sets []*Set
		errs []error
		from = map[string]string{}
	)
	for _, path := range paths {
		set, err := readDomain(path, open)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if other, taken := from[set.domain]; taken {
			errs = append(errs, &Error{File: path, Line: 1, Column: 1,
				Message: fmt.Sprintf("the domain %q is %s's already; one file for each domain", set.domain, other)})
			continue
		}
		from[set.domain] = path
		sets = append(sets, set)
	}
	return sets, errors.Join(errs...)
}

func readDomain(path string, open func(path string) (string, error)) (*Set, error) {
	text, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("read limits: %w", err)
	}
	set, err := ParseWith([]byte(text), Options{AnyKeys: true, File: path})
	if set, err = ruled(path, set, err); err != nil {
		return nil, err
	}
	if set.domain == Domain {
		return nil, &Error{File: path, Line: 1, Column: 1, Message: fmt.Sprintf("the domain %q is our own Envoy's: its rules stand in limits.file", Domain)}
	}
	return set, nil
}
