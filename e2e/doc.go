// Package e2e tests the product from outside: it builds the binary, starts the whole
// stack on free ports as `leaky up` does for a user, and talks to Envoy with the SDKs
// that users have. It has no code of its own.
package e2e
