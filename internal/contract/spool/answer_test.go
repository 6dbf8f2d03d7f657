package spool

import "testing"

func TestAnswerTokens(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		report        string
		input, output int64
		counted       bool
	}{
		"nothing":                     {"events=0,after=0,bytes=0", 0, 0, false},
		"chat":                        {"whole=1,in=100,out=40,total=140", 100, 40, true},
		"total alone":                 {"whole=1,total=9", 9, 0, true},
		"input and total":             {"whole=1,in=5,total=9", 5, 4, true},
		"reasoning beside the output": {"whole=1,in=100,out=10,total=410,reasoning=300", 100, 310, true},
		"reasoning without a total":   {"whole=1,in=100,out=10,reasoning=300", 100, 310, true},
		"reasoning in the output":     {"whole=1,in=100,out=310,reasoning=300", 100, 310, true},
		"gemini":                      {"whole=1,in=7,out=11,total=24,thoughts=5,tools=1", 8, 16, true},
		"anthropic's cache":           {"whole=1,in=25,out=15,read=3,written=2", 30, 15, true},
		"a cache for an hour":         {"whole=1,in=25,out=15,read=3,written=9,written_1h=7", 37, 15, true},
		"a cache within the input":    {"whole=1,in=25,out=15,total=40,read=3,written=2", 25, 15, true},
		"above 2^31":                  {"whole=1,in=3000000000,out=1", 3000000000, 1, true},
		"absurd":                      {"whole=1,in=10000000000000000,out=1", 0, 1, false},
		"a total that is too low":     {"whole=1,in=100,out=40,total=7", 100, 40, true},
		"content came after it":       {"after=3,whole=1,in=100,out=40", 100, 40, false},
		"broken off in it":            {"in=100,out=4", 100, 4, false},
		"no input":                    {"whole=1,out=4", 0, 4, false},
	} {
		a := ParseAnswer(c.report)
		if input, output := a.Tokens(); input != c.input || output != c.output || a.Counted() != c.counted {
			t.Errorf("%s: want %d, %d, %v, got %d, %d, %v", name, c.input, c.output, c.counted, input, output, a.Counted())
		}
	}
}
