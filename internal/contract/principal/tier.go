package principal

import "github.com/leaky-tokens/leaky-tokens/internal/config"

// TierOf is the tier a caller's roles give: of those that are tiers the one with the
// highest priority (of equals the first by name), else the default.
func TierOf(roles []string, tiers config.Tiers) string {
	best := ""
	for _, role := range roles {
		level, ok := tiers.Levels[role]
		if !ok {
			continue
		}
		if now := tiers.Levels[best]; best == "" || level.Priority > now.Priority || level.Priority == now.Priority && role < best {
			best = role
		}
	}
	if best == "" {
		return tiers.Default
	}
	return best
}
