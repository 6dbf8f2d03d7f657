package meter

import (
	"maps"
	"net/url"
	"slices"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// labelOf is what a call says of itself, if the books may keep it. The guard lets nothing else
// pass; but a spool may be another Envoy's, and an event that is malformed is lost.
func labelOf(text string) string {
	if !usage.IsLabel(text) {
		return ""
	}
	return text
}

// tagsOf are the tags of a line, a query string; nil without any. What is no tag is left out.
func tagsOf(text string) map[string]string {
	if text == "" {
		return nil
	}
	told, _ := url.ParseQuery(text) // what could be read of a text that is cut
	tags := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(told)) {
		if value := told.Get(name); usage.TagName.MatchString(name) && usage.IsLabel(value) && len(tags) < usage.MostTags {
			tags[name] = value
		}
	}
	if len(tags) == 0 {
		return nil
	}
	return tags
}
