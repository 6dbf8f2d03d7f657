// Package ports finds addresses for processes that must be told where to listen before they start. It is
// beside the request path: only tests and benchmarks use it.
package ports
