// Package dashboards stands beside the request path: it makes the Grafana dashboards that ship with
// the product, each a JSON file of this folder. A dashboard is rows, a row is one question, and its
// panels answer it. The files are made anew by
//
//	go test ./deploy/dashboards -update
//
// and a test runs every query of theirs on the Prometheus of a stack that has served a demo.
package dashboards
