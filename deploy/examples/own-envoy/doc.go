// Package ownenvoy holds the example of an Envoy that is not configured by xds, envoy.yaml, against what
// xds configures. It has no code of its own.
package ownenvoy
