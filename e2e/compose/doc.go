// Package compose tests what deploy/compose starts, without containers: the same commands, in the
// same order, with the same health checks, on stores of the test environment. It has no code of its
// own.
package compose
