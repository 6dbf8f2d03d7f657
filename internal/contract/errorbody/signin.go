package errorbody

import (
	"html"
	"net/http"
	"strings"
)

// Error codes of OAuth2 (RFC 6749 sections 4.1.2.1 and 5.2, RFC 6750 section 3.1).
const (
	oauthRequest     = "invalid_request"
	oauthToken       = "invalid_token"
	oauthScope       = "insufficient_scope"
	oauthUnavailable = "temporarily_unavailable"
	oauthServer      = "server_error"
)

// OAuthCode is the error of OAuth2 for a refusal that knows no better one than its HTTP status.
func OAuthCode(status int) string {
	switch {
	case status == http.StatusUnauthorized:
		return oauthToken
	case status == http.StatusForbidden:
		return oauthScope
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable, status == http.StatusGatewayTimeout:
		return oauthUnavailable
	case status >= http.StatusInternalServerError:
		return oauthServer
	}
	return oauthRequest
}

// oauth is a problem with the members by which OAuth2 clients know an error (RFC 6749 section 5.2):
// one without them is taken for the answer with a token.
func (r Refusal) oauth(b []byte) []byte {
	b = append(b, `{"error":`...)
	b = quote(b, OAuthCode(r.Status))
	b = append(b, `,"error_description":`...)
	b = quote(b, r.Message)
	start := len(b)
	b = r.problem(b)
	b[start] = ',' // goes on where the problem's object would begin
	return b
}

// PageText is the page for a person whose request went no further, with placeholders of its own
// for title and text. It needs nothing else: no script, no style sheet, no picture.
const PageText = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · Leaky Tokens</title>
<style>body{margin:0 auto;max-width:26rem;padding:2rem 1rem;font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}</style>
</head>
<body>
<h1>{title}</h1>
<p>{text}</p>
</body>
</html>
`

// page is what a person reads.
func (r Refusal) page(b []byte) []byte {
	text := html.EscapeString(r.Message) + "."
	if r.RequestID != "" {
		text += "</p>\n<p>Request " + html.EscapeString(r.RequestID)
	}
	return append(b, strings.NewReplacer("{title}", html.EscapeString(http.StatusText(r.Status)), "{text}", text).Replace(PageText)...)
}
