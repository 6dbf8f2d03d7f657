// Package demo stands before the request path, where the callers are: it drives a
// running stack through its real gateway with many clients at once, keeps its own
// books, and has them held against the stubs', the limiter's and the analytics' ones,
// request by request.
//
// The parts are apart on purpose: a plan is what one client asks next (pure, from the
// seed), a caller carries it out, a book keeps what came back, a watcher reads the other
// books while the load runs, and package judge compares all of them.
package demo
