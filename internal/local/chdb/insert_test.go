package chdb

import (
	"bytes"
	"strings"
	"testing"
)

func TestSplitInsert(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text, head, tail, format, data string // format empty: not split
	}{
		"native":               {"INSERT INTO t FORMAT Native\n\n\x01\x00", "INSERT INTO t ", "", "Native", "\n\x01\x00"},
		"columns and settings": {"insert into t (a, `b;c`) SETTINGS x=1, y='FORMAT z' format TSV\n1\t2\n", "insert into t (a, `b;c`) ", "SETTINGS x=1, y='FORMAT z' ", "TSV", "1\t2\n"},
		"data on the line":     {"INSERT INTO t FORMAT JSONEachRow {\"a\":1}", "INSERT INTO t ", "", "JSONEachRow", "{\"a\":1}"},
		"values":               {"INSERT INTO t(a) VALUES (1), ('x;')", "INSERT INTO t(a) ", "", "Values", "(1), ('x;')"},
		"carriage return":      {"INSERT INTO t FORMAT CSV\r\n\r\n1", "INSERT INTO t ", "", "CSV", "\r\n1"},
		"comments":             {"-- SELECT\n/* FORMAT x */INSERT INTO t -- VALUES\nFORMAT CSV\n1", "-- SELECT\n/* FORMAT x */INSERT INTO t -- VALUES\n", "", "CSV", "1"},
		"names like keywords":  {"INSERT INTO `values` (format, \"select\") FORMAT CSV\n1,2", "INSERT INTO `values` (format, \"select\") ", "", "CSV", "1,2"},
		"no rows":              {"INSERT INTO t FORMAT Native", "INSERT INTO t ", "", "Native", ""},
		"from a query":         {text: "INSERT INTO t SELECT 1 FORMAT Null"},
		"from a file":          {text: "INSERT INTO t FROM INFILE 'x' FORMAT CSV"},
		"with":                 {text: "INSERT INTO t WITH 1 AS a SELECT a"},
		"no format":            {text: "INSERT INTO t FORMAT "},
		"no insert":            {text: "SELECT 1 FORMAT Native"},
		"nothing":              {text: " "},
		"open quote":           {text: "INSERT INTO 't FORMAT CSV"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in, is := splitInsert([]byte(c.text))
			if is != (c.format != "") {
				t.Fatalf("split: want %v, got %v", c.format != "", is)
			}
			if in.head != c.head || in.tail != c.tail || in.format != c.format || string(in.data) != c.data {
				t.Errorf("want %q, %q, %q, %q, got %q, %q, %q, %q", c.head, c.tail, c.format, c.data, in.head, in.tail, in.format, in.data)
			}
		})
	}
}

func FuzzSplitInsert(f *testing.F) {
	for _, seed := range []string{"INSERT INTO t FORMAT Native\n\x00", "INSERT INTO t (a) SETTINGS b=1 VALUES (1)", "/* x", "'\\", "INSERT --", "#!x\nINSERT"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		in, is := splitInsert(text)
		if !is {
			return
		}
		if !bytes.HasPrefix(text, []byte(in.head+in.tail)) || !bytes.HasSuffix(text, in.data) || !isWord(in.format) {
			t.Errorf("want parts of the statement %q, got %q, %q, %q, %q", text, in.head, in.tail, in.format, in.data)
		}
		if strings.Contains(in.format, "'") {
			t.Errorf("format: want a word, got %q", in.format)
		}
	})
}

func TestParseException(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]exception{
		"Code: 60. DB::Exception: no table. (UNKNOWN_TABLE)": {code: 60, status: 404},
		"Code: 159. DB::Exception: slow":                     {code: 159, status: 408},
		"Code: 99999999. x":                                  {code: 1002, status: 500},
		"Code: 0. x":                                         {code: 1002, status: 500},
		"terminate called":                                   {code: 1002, status: 500},
	} {
		got := parseException(text)
		if got.code != want.code || got.status != want.status || !strings.Contains(got.text, text) {
			t.Errorf("%q: want %d and %d, got %d and %d, %q", text, want.code, want.status, got.code, got.status, got.text)
		}
	}
}
