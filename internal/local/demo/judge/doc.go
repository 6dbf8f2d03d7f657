// Package judge stands behind a demo: from what the clients know (calls) and what the books of
// stub, Redis, ClickHouse and ledger say (evidence) it finds whether anything went over a limit
// and whether all agree, request by request, and prints that. It is pure: the same evidence gives
// the same verdict.
package judge
