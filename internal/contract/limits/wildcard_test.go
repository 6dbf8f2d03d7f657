package limits_test

import (
	"encoding/json"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// TestWildcards matches each pattern alone against values that it takes and does not.
func TestWildcards(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		key, value string
		takes      []limits.Entry
		leaves     []limits.Entry
	}{
		"end":        {"path", "/api/*", []limits.Entry{{"path", "/api/"}, {"path", "/api/x"}}, []limits.Entry{{"path", "/ap"}, {"other", "/api/x"}}},
		"front":      {"path", "*/pay", []limits.Entry{{"path", "/pay"}, {"path", "/a/b/pay"}}, []limits.Entry{{"path", "/pay/"}, {"path", "pay"}}},
		"inside":     {"path", "/api/*/action", []limits.Entry{{"path", "/api/1/action"}, {"path", "/api//action"}}, []limits.Entry{{"path", "/api/action"}}},
		"several":    {"k", "foo*bar*baz", []limits.Entry{{"k", "foobarbaz"}, {"k", "foo-bar-bar-baz"}}, []limits.Entry{{"k", "foobaz"}, {"k", "foobarba"}}},
		"all":        {"k", "*", []limits.Entry{{"k", ""}, {"k", "x"}}, []limits.Entry{{"q", "x"}}},
		"two in row": {"k", "a**b", []limits.Entry{{"k", "ab"}, {"k", "axb"}}, []limits.Entry{{"k", "a"}}},
		"no overlap": {"k", "aba*aba", []limits.Entry{{"k", "abaaba"}}, []limits.Entry{{"k", "aba"}, {"k", "ababa"}}},
		"key":        {"hdr-*", "", []limits.Entry{{"hdr-", ""}, {"hdr-x", "1"}}, []limits.Entry{{"hdr", "-x"}}},
		"key, value": {"hdr-*", "v", []limits.Entry{{"hdr-x", "v"}}, []limits.Entry{{"hdr-x", "w"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			value, err := json.Marshal(tc.value)
			if err != nil {
				t.Fatal(err)
			}
			set, err := limits.ParseWith([]byte(`{domain: d, descriptors: [{key: "`+tc.key+`", value: `+string(value)+
				`, rate_limit: {unit: hour, requests_per_unit: 1}}]}`), limits.Options{AnyKeys: true})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range tc.takes {
				if _, ok := set.Match([]limits.Entry{e}); !ok {
					t.Errorf("%v is not matched", e)
				}
			}
			for _, e := range tc.leaves {
				if _, ok := set.Match([]limits.Entry{e}); ok {
					t.Errorf("%v is matched", e)
				}
			}
		})
	}
}

// TestWildcardOrder has a fixed value win over patterns, those in file order, and none last.
func TestWildcardOrder(t *testing.T) {
	t.Parallel()
	set, err := limits.ParseWith([]byte(`
domain: d
descriptors:
  - {key: k, rate_limit: {name: rest, unit: hour, requests_per_unit: 1}}
  - {key: k, value: "*b", rate_limit: {name: first, unit: hour, requests_per_unit: 1}}
  - {key: "k*", value: c, rate_limit: {name: second, unit: hour, requests_per_unit: 1}}
  - {key: k, value: "a*", rate_limit: {name: third, unit: hour, requests_per_unit: 1}}
  - {key: k, value: ab, rate_limit: {name: fixed, unit: hour, requests_per_unit: 1}}
`), limits.Options{AnyKeys: true})
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{"ab": "fixed", "axb": "first", "c": "second", "ad": "third", "x": "rest"} {
		if rule, ok := set.Match([]limits.Entry{{Key: "k", Value: value}}); !ok || rule.Name != want {
			t.Errorf("%s: want %s, got %v", value, want, rule)
		}
	}
}

// TestMetadataIsRead reads what upstream's files say there, and warns at a near miss.
func TestMetadataIsRead(t *testing.T) {
	t.Parallel()
	set, err := limits.ParseWith([]byte("\ufeffdomain: d\ndescriptors:\n"+`
  - key: service
    metadata: {level: {described: true}}
    descriptors:
      - key: name
        rate_limit: {unit: hour, requests_per_unit: 1}
        metadata:
          service_with_quota: {name: one, ports: [1, 2.5, "x", null, true]}
          rate_limit_polcy: {burst: 2}
          rate_limit_policy: {algorithm: leaky_bucket, burst: 7, count: admitted}
`), limits.Options{AnyKeys: true, File: "f"})
	if err != nil {
		t.Fatal(err)
	}
	rule := set.Rules()[0]
	got, err := json.Marshal(rule.Metadata)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"rate_limit_polcy":{"burst":2},"service_with_quota":{"name":"one","ports":[1,2.5,"x",null,true]}}`; string(got) != want {
		t.Errorf("want %s, got %s", want, got)
	}
	if rule.Capacity != 7 || rule.CountsAll {
		t.Errorf("the policy beside it is not read: %+v", rule)
	}
	if w := set.Warnings(); len(w) != 1 || w[0].Error() != `f:11:11: metadata "rate_limit_polcy" is passed on to Envoy and changes no limit; did you mean "rate_limit_policy"?` {
		t.Errorf("warnings: %v", w)
	}
}
