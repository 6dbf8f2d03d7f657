// Package consume is the second way to spend tokens, beside the LLM routes: a caller says
// how many a prompt costs, they are held in their limits and their pool, the provider is
// called through Envoy, and they are settled or given back. The hold is ratelimit's, like
// that of every call; what came of it goes to the books as a usage event.
package consume
