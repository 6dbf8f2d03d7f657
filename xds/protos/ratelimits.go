package protos

import (
	"errors"
	"fmt"
	"strings"

	rlsconf "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// limitsFile is a file of limits in the words of envoyproxy/ratelimit.
type limitsFile struct {
	Domain      string            `yaml:"domain"`
	Descriptors []limitDescriptor `yaml:"descriptors"`
}

type limitDescriptor struct {
	Key         string            `yaml:"key"`
	Value       string            `yaml:"value"`
	RateLimit   *limitPolicy      `yaml:"rate_limit"`
	Descriptors []limitDescriptor `yaml:"descriptors"`
	Shadow      bool              `yaml:"shadow_mode"`
	Quota       bool              `yaml:"quota_mode"`
	Detailed    bool              `yaml:"detailed_metric"`
	Shared      bool              `yaml:"share_threshold"`
	Metadata    map[string]any    `yaml:"metadata"`
}

type limitPolicy struct {
	Name      string                  `yaml:"name"`
	Unit      string                  `yaml:"unit"`
	Requests  uint32                  `yaml:"requests_per_unit"`
	Unlimited bool                    `yaml:"unlimited"`
	Replaces  []struct{ Name string } `yaml:"replaces"`
}

// RateLimits is a file of limits, which package limits has taken, as limiters get it over xDS. What
// the message has no word for and changes what is counted is an error.
func RateLimits(text limits.Text) (*rlsconf.RateLimitConfig, error) {
	var file limitsFile
	// A key beside a merge (<<) that has it too is one there twice for the library; package limits has looked.
	if err := yaml.UnmarshalWithOptions(text.YAML, &file, yaml.AllowDuplicateMapKey()); err != nil {
		return nil, fmt.Errorf("%s as RateLimitConfig: %w", text.Name, err)
	}
	descriptors, err := limitDescriptors(file.Descriptors)
	if err != nil {
		return nil, fmt.Errorf("%s as RateLimitConfig: %w", text.Name, err)
	}
	return &rlsconf.RateLimitConfig{Name: file.Domain, Domain: file.Domain, Descriptors: descriptors}, nil
}

func limitDescriptors(all []limitDescriptor) ([]*rlsconf.RateLimitDescriptor, error) {
	var out []*rlsconf.RateLimitDescriptor
	for _, d := range all {
		if d.Shared {
			return nil, errors.New("it has no share_threshold")
		}
		deeper, err := limitDescriptors(d.Descriptors)
		if err != nil {
			return nil, err
		}
		one := &rlsconf.RateLimitDescriptor{Key: d.Key, Value: d.Value, Descriptors: deeper, ShadowMode: d.Shadow, QuotaMode: d.Quota,
			DetailedMetric: d.Detailed}
		if len(d.Metadata) > 0 {
			if one.Metadata, err = structpb.NewStruct(d.Metadata); err != nil {
				return nil, fmt.Errorf("metadata of %s: %w", d.Key, err)
			}
		}
		if p := d.RateLimit; p != nil {
			one.RateLimit = &rlsconf.RateLimitPolicy{Name: p.Name, RequestsPerUnit: p.Requests, Unlimited: p.Unlimited,
				Unit: rlsconf.RateLimitUnit(rlsconf.RateLimitUnit_value[strings.ToUpper(p.Unit)])}
			for _, r := range p.Replaces {
				one.RateLimit.Replaces = append(one.RateLimit.Replaces, &rlsconf.RateLimitReplace{Name: r.Name})
			}
		}
		out = append(out, one)
	}
	return out, nil
}
