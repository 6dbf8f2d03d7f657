package limits

import "slices"

// Labelled reports whether the rule's metrics carry values of the request
// (detailed_metric, value_to_metric), so that Label differs from one request to the next.
func (r *Rule) Labelled() bool {
	return r.Detailed || slices.ContainsFunc(r.steps, func(s step) bool { return s.valued })
}

// AppendLabel appends what the rule's metrics are labelled with for these entries, which
// Match took: the path with the values that detailed_metric and value_to_metric ask for,
// as envoyproxy/ratelimit writes them; a shared threshold's pattern stands for its values.
// A rule without either is labelled by its name.
func (r *Rule) AppendLabel(dst []byte, entries []Entry) []byte {
	if !r.Labelled() {
		return append(dst, r.Name...)
	}
	patterns := slices.ContainsFunc(r.steps, func(s step) bool { return s.shared })
	for i, e := range entries {
		if i > 0 {
			dst = append(dst, '.')
		}
		dst = append(dst, e.Key...)
		value := r.steps[i].label(e.Value, r.Detailed)
		if value != "" || r.Detailed && !patterns {
			dst = append(dst, '_')
		}
		dst = append(dst, value...)
	}
	return dst
}

func (s step) label(sent string, detailed bool) string {
	switch {
	case s.shared:
		return s.value
	case detailed, s.valued:
		return sent
	}
	return s.value
}
