package client

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/client/api"
)

// Error is a refusal: any answer that is not 2xx.
type Error struct {
	Method, Path string
	Status       int
	Header       http.Header
	// Problem is what the API says; in answers of other shapes (OAuth2, the models) Message and Status
	// alone are set.
	Problem api.Problem
}

// Error names the call, the status and the message.
func (e *Error) Error() string {
	text := fmt.Sprintf("%s %s: %d", e.Method, e.Path, e.Status)
	if e.Problem.Message != "" {
		text += ": " + e.Problem.Message
	}
	return text
}

// refusal reads an answer that is not good, at most 64 KiB of it.
func refusal(req *http.Request, resp *http.Response) *Error {
	e := &Error{Method: req.Method, Path: req.URL.Path, Status: resp.StatusCode, Header: resp.Header}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what is there is better than nothing
	var other struct {
		Error       json.RawMessage `json:"error"` // a code of OAuth2, or OpenAI's object
		Description string          `json:"error_description"`
	}
	if json.Unmarshal(text, &e.Problem) != nil || json.Unmarshal(text, &other) != nil {
		e.Problem = api.Problem{Message: strings.TrimSpace(string(text[:min(len(text), 300)]))}
	}
	e.Problem.Message = cmp.Or(e.Problem.Message, e.Problem.Detail)
	if e.Problem.Message == "" && len(other.Error) > 0 {
		var code string
		var object struct {
			Message string `json:"message"`
		}
		_, _ = json.Unmarshal(other.Error, &code), json.Unmarshal(other.Error, &object)
		e.Problem.Message = cmp.Or(object.Message, strings.Trim(code+": "+other.Description, ": "))
	}
	e.Problem.Status = int32(resp.StatusCode)
	return e
}
