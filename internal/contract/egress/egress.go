// Package egress is what tokensvc and Envoy agree on for calls to providers: POST
// /PROVIDER/consume on the egress listener, whose answer is the provider's own unless it
// carries Header, by which Envoy tells why there is none. xds makes Envoy do so.
package egress

// Header is on every answer that Envoy made itself, and on no other.
const Header = "x-leaky-egress"

// Reason is the value of Header.
type Reason string

// Reasons, with the status of the answer.
const (
	BreakerOpen Reason = "breaker_open"  // 503: the provider failed too often and is left alone for a while
	Busy        Reason = "bulkhead_full" // 503: as many calls as allowed are under way
	TimedOut    Reason = "timeout"       // 504: no whole answer in time; the call was cancelled
	Unreachable Reason = "unreachable"   // 503: no connection, after all attempts
	Reset       Reason = "reset"         // 503: cut before an answer began, after all attempts
	Unknown     Reason = "unknown"       // 404: no such provider
)

// Path is where a provider's call is posted.
func Path(provider string) string { return "/" + provider + "/consume" }
