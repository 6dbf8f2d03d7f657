package limits

import (
	"errors"
	"fmt"
	"os"
)

// LoadDomains reads files of domains that other Envoys ask in: their keys are whatever
// those send. Each file is one domain, and none is Domain.
func LoadDomains(paths []string) ([]*Set, error) {
	var (
		sets []*Set
		errs []error
		from = map[string]string{}
	)
	for _, path := range paths {
		set, err := loadDomain(path)
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

func loadDomain(path string) (*Set, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read limits: %w", err)
	}
	set, err := ParseWith(text, Options{AnyKeys: true, File: path})
	if err != nil {
		return nil, err
	}
	if set.domain == Domain {
		return nil, &Error{File: path, Line: 1, Column: 1, Message: fmt.Sprintf("the domain %q is our own Envoy's: its rules stand in limits.file", Domain)}
	}
	return set, nil
}
