// Package fleet tests what is more than one: gateways beside each other on clusters of stores, whose
// processes are killed, and versions beside each other, each under load. Its tests take minutes and
// belong to make test-long; it has no code of its own.
package fleet
