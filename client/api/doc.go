// Package api is generated from openapi.yaml (make generate): the types of the control API and
// a function for each operation. It is beside the request path; package client adds what callers
// need, such as credentials and errors.
package api
