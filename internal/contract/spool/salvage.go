package spool

import "regexp"

// members finds members of a line, wherever the damage is. What a client sends stands in it
// as a JSON string, whose quotes are escaped, so it cannot look like a member.
var members = regexp.MustCompile(`"([a-z_]+)":("(?:[^"\\]|\\.){0,512}"|-?[0-9.]+|null)`)

// Salvage reads what can be read of a damaged line; false without the request's id. Only the
// first of two members of a name counts.
func Salvage(line []byte) (Line, bool) {
	var l Line
	seen := map[string]bool{}
	for _, found := range members.FindAllSubmatch(line[:min(len(line), MaxLine)], -1) {
		name := string(found[1])
		if seen[name] {
			continue
		}
		s := scanner{text: string(found[2])}
		if v, err := s.scalar(); err == nil {
			seen[name] = true
			l.set(name, v)
		}
	}
	l.settle()
	return l, l.ID != ""
}
