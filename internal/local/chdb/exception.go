package chdb

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
)

// Codes of ClickHouse's ErrorCodes.cpp that this package itself raises.
const (
	codeNotImplemented  = 48
	codeUnknownSetting  = 115
	codeIncorrectData   = 117
	codeTooManyQueries  = 202
	codeTooLarge        = 307 // TOO_MANY_BYTES
	codeUnknownCompress = 89  // UNKNOWN_COMPRESSION_METHOD
	codeUnknown         = 1002
)

// exception is an error as ClickHouse tells it.
type exception struct {
	code   int
	status int    // HTTP
	text   string // "Code: 47. DB::Exception: ... (UNKNOWN_IDENTIFIER)"
}

func (e *exception) Error() string { return e.text }

var exceptionCode = regexp.MustCompile(`^Code: (\d{1,6})\. `)

// parseException reads the engine's message.
func parseException(text string) *exception {
	e := &exception{code: codeUnknown, text: text}
	if m := exceptionCode.FindStringSubmatch(text); m != nil {
		if code, err := strconv.Atoi(m[1]); err == nil && code > 0 {
			e.code = code
		}
	} else {
		e.text = fmt.Sprintf("Code: %d. DB::Exception: %s (UNKNOWN_EXCEPTION)", codeUnknown, text)
	}
	e.status = httpStatus(e.code)
	return e
}

// fail makes an exception of our own.
func fail(code, status int, name, format string, args ...any) *exception {
	return &exception{code: code, status: status, text: fmt.Sprintf("Code: %d. DB::Exception: %s. (%s)", code, fmt.Sprintf(format,
		args...), name)}
}

// httpStatus maps as ClickHouse's HTTPHandler does, for the codes a client of ours meets.
func httpStatus(code int) int {
	switch code {
	case 6, 26, 27, 36, 38, 41, 43, 53, 62, 69, 72, 117, 386, 456, 457, 636:
		return http.StatusBadRequest
	case 46, 47, 50, 56, 60, 63, 73, 81, codeUnknownSetting:
		return http.StatusNotFound
	case 164:
		return http.StatusForbidden
	case 159:
		return http.StatusRequestTimeout
	case codeNotImplemented:
		return http.StatusNotImplemented
	case codeTooManyQueries:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
