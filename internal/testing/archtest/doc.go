// Package archtest holds the rules of the code base as tests: which packages may
// import which, how long a file may grow, and that every package says what it is.
// It has no code of its own.
package archtest
