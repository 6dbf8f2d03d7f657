package config

import (
	"maps"
	"slices"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// Dimensions say where a call tells what the books keep of it beside its caller: for whom it is, of
// which conversation or run, and up to eight tags. What a call tells is at most 128 bytes; longer
// values, and such with control characters, are left out.
type Dimensions struct {
	EndUser Dimension            `yaml:"end_user"` // default header x-end-user, else member user
	Session Dimension            `yaml:"session"`  // default header x-session-id
	Tags    map[string]Dimension `yaml:"tags"`     // by name; default none
}

// Dimension is where one stands: a request header, or a member of the body's object that is a
// string. With both the header goes first.
type Dimension struct {
	Header string `yaml:"header"` // name, lower-case
	Body   string `yaml:"body"`   // name of a member at the top
}

func defaultDimensions() Dimensions {
	return Dimensions{EndUser: Dimension{Header: "x-end-user", Body: "user"}, Session: Dimension{Header: "x-session-id"}}
}

// Names are the dimensions by the names that limits and the books use: end_user, session, and the
// tags' as tag.NAME. Those that stand nowhere are not among them.
func (d Dimensions) Names() map[string]Dimension {
	all := map[string]Dimension{"end_user": d.EndUser, "session": d.Session}
	for name, at := range d.Tags {
		all["tag."+name] = at
	}
	maps.DeleteFunc(all, func(_ string, at Dimension) bool { return at == Dimension{} })
	return all
}

// readByUs are members that the gateway decides on; what they say is no dimension.
func readByUs() []string {
	return []string{"model", "max_tokens", "max_completion_tokens", "n", "best_of", "stream", "stream_options",
		"generationconfig", "generation_config"}
}

func (d Dimensions) validate(v *validator) {
	d.EndUser.validate(v, "dimensions.end_user")
	d.Session.validate(v, "dimensions.session")
	if len(d.Tags) > usage.MostTags {
		v.fail("dimensions.tags", "%d tags are too many; the books keep %d", len(d.Tags), usage.MostTags)
	}
	for _, name := range slices.Sorted(maps.Keys(d.Tags)) {
		key := "dimensions.tags." + name
		if !usage.TagName.MatchString(name) {
			v.fail(key, "a tag's name is a lower-case letter and then letters, digits and _, at most 32")
		}
		if d.Tags[name] == (Dimension{}) {
			v.fail(key, "say where it stands: header, body, or both")
		}
		d.Tags[name].validate(v, key)
	}
}

func (d Dimension) validate(v *validator, key string) {
	if d.Header != "" && (!headerName.MatchString(d.Header) || secret(d.Header)) {
		v.fail(key+".header", "%q: write a header's name in lower case, without underscores, and none that carries a credential", d.Header)
	}
	if d.Body == "" {
		return
	}
	if !queryName.MatchString(d.Body) || slices.Contains(readByUs(), strings.ToLower(d.Body)) {
		v.fail(key+".body", "%q: write the name of a member (letters, digits and . _ -) that the gateway does not decide on", d.Body)
	}
}

// secret says that a header may carry a credential, which no book may show.
func secret(name string) bool {
	return slices.Contains([]string{"authorization", "proxy-authorization", "cookie", "x-api-key", "x-goog-api-key", "api-key",
		"x-leaky-identity"}, name)
}
