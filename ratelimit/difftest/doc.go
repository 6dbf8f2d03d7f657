// Package difftest holds ratelimit to envoyproxy/ratelimit's own server: both run, are
// asked the same, and have to answer the same, but for upstream's defects, each of which
// has a test of its own. It has only tests.
package difftest
