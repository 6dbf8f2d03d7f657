package chdb

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ClickHouse/ch-go/compress"
)

// request is one statement as the HTTP interface takes it: ClickHouse's docs/interfaces/http.
type request struct {
	text     []byte // statement, and after it an insert's rows
	format   string // of the answer when the statement names none
	database string
	id       string
	params   map[string]string // param_<name>: values of {name:Type}, in TabSeparated escaping
	settings map[string]string
	revision uint64 // client_protocol_version; 0: the client wants plain Native
	compress string // "", "LZ4" or "ZSTD": blocks of ClickHouse's own compressed format
	readonly bool   // a GET changes nothing
}

// control are the URL parameters that are not settings.
const control = " query database default_format client_protocol_version compress decompress enable_http_compression query_id " +
	"quota_key user password role session_timeout session_check close_session buffer_size stacktrace wait_end_of_query "

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]{0,127}$`)

func parseRequest(r *http.Request, maxBody int64) (request, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return request{}, fail(codeIncorrectData, http.StatusBadRequest, "INCORRECT_DATA", "The URL's query cannot be read: %v", err)
	}
	q := request{database: first(values.Get("database"), r.Header.Get("X-ClickHouse-Database")), id: values.Get("query_id"),
		format: first(values.Get("default_format"), r.Header.Get("X-ClickHouse-Format"), "TabSeparated"),
		params: map[string]string{}, settings: map[string]string{}, readonly: r.Method != http.MethodPost}
	if err := q.options(values); err != nil {
		return request{}, err
	}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/") {
		return request{}, fail(codeNotImplemented, http.StatusNotImplemented, "NOT_IMPLEMENTED", "External tables are not supported here")
	}
	body, err := readBody(r, values.Get("decompress") == "1", maxBody)
	if err != nil {
		return request{}, err
	}
	q.text = body
	if statement := values.Get("query"); statement != "" {
		q.text = body[:0:0]
		q.text = append(append(append(q.text, statement...), '\n'), body...)
	}
	return q, nil
}

// options reads the URL's parameters; what is not known is a setting.
func (q *request) options(values url.Values) error {
	for name := range values {
		value := values.Get(name)
		switch {
		case name == "session_id" && value != "":
			return fail(codeNotImplemented, http.StatusNotImplemented, "NOT_IMPLEMENTED", "Sessions are not supported here: send settings with each request")
		case name == "session_id" || strings.Contains(control, " "+name+" "):
		case strings.HasPrefix(name, "param_"):
			q.params[name[len("param_"):]] = value
		case !settingName.MatchString(name):
			return fail(codeUnknownSetting, http.StatusNotFound, "UNKNOWN_SETTING", "Unknown setting %q", name)
		default:
			q.settings[name] = value
		}
	}
	if text := values.Get("client_protocol_version"); text != "" {
		revision, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return fail(codeIncorrectData, http.StatusBadRequest, "INCORRECT_DATA", "client_protocol_version is not a number")
		}
		q.revision = revision
	}
	if values.Get("compress") == "1" {
		q.compress = "LZ4"
		if strings.EqualFold(q.settings["network_compression_method"], "ZSTD") {
			q.compress = "ZSTD"
		}
	}
	return nil
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// readBody unpacks the body; packed or not, it has at most limit bytes.
func readBody(r *http.Request, blocks bool, limit int64) ([]byte, error) {
	packed := io.LimitReader(r.Body, limit+1)
	plain := packed
	var err error
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip":
		plain, err = gzip.NewReader(packed)
	case "deflate":
		plain, err = zlib.NewReader(packed)
	default:
		return nil, fail(codeUnknownCompress, http.StatusUnsupportedMediaType, "UNKNOWN_COMPRESSION_METHOD",
			"Content-Encoding %q is not supported here: use gzip, deflate, or decompress=1 with LZ4 or ZSTD", encoding)
	}
	if err == nil && blocks {
		plain = compress.NewReader(plain)
	}
	if err != nil {
		return nil, fail(codeIncorrectData, http.StatusBadRequest, "INCORRECT_DATA", "The body cannot be unpacked: %v", err)
	}
	var body bytes.Buffer
	if r.ContentLength > 0 && r.ContentLength <= limit {
		body.Grow(int(r.ContentLength))
	}
	n, err := io.Copy(&body, io.LimitReader(plain, limit+1))
	switch {
	case n > limit:
		return nil, fail(codeTooLarge, http.StatusRequestEntityTooLarge, "TOO_MANY_BYTES", "The body has more than %d bytes", limit)
	case err != nil && !(blocks && errors.Is(err, io.EOF)):
		return nil, fail(codeIncorrectData, http.StatusBadRequest, "INCORRECT_DATA", "The body cannot be read: %v", err)
	}
	return body.Bytes(), nil
}

// prepare gives the statements that put a fresh connection into the request's state.
func (q request) prepare(defaults map[string]string) []string {
	var statements []string
	if q.database != "" && q.database != "default" {
		statements = append(statements, "USE `"+escape(q.database, "`")+"`")
	}
	settings := maps.Clone(defaults)
	maps.Copy(settings, q.settings)
	if q.readonly {
		settings["readonly"] = "1"
	}
	set := make([]string, 0, len(settings))
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		set = append(set, name+" = '"+escape(settings[name], "'")+"'")
	}
	return append(statements, "SET "+strings.Join(set, ", "))
}

func escape(s, quote string) string {
	return strings.NewReplacer(`\`, `\\`, quote, `\`+quote).Replace(s)
}
