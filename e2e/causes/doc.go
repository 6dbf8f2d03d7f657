// Package causes tries the decision tables of docs/operations.md: each cause is planted in a stack of
// the test's own, and must be found by what the page says, and by nothing else. Its tests stop and slow
// parts, take minutes and belong to make test-long; it has no code of its own.
package causes
