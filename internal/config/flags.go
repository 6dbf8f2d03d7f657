package config

// Flags turn whole features off. They may change while services run: each follows the
// file. What is on is shown at GET /actuator/info.
type Flags struct {
	Gateway      GatewayFlags      `yaml:"gateway"`
	TokenService TokenServiceFlags `yaml:"token_service"`
}

// GatewayFlags are what the gateway does to a request.
type GatewayFlags struct {
	// RateLimiting off: requests are not counted and no X-RateLimit header is sent. Tokens of
	// LLM calls are held all the same.
	RateLimiting bool `yaml:"rate_limiting"`
	// APIKeyValidation off: API keys are ignored, only tokens count.
	APIKeyValidation bool `yaml:"api_key_validation"`
}

// TokenServiceFlags are what the token service does.
type TokenServiceFlags struct {
	QuotaEnforcement bool `yaml:"quota_enforcement"` // off: pools are not asked
	SagaPurchases    bool `yaml:"saga_purchases"`    // off: purchases answer 503
}

func defaultFlags() Flags {
	return Flags{Gateway: GatewayFlags{RateLimiting: true, APIKeyValidation: true}, TokenService: TokenServiceFlags{QuotaEnforcement: true,
		SagaPurchases: true}}
}

// Shown are the flags by key, as GET /actuator/info shows them.
func (f Flags) Shown() map[string]bool {
	return map[string]bool{
		"gateway.rate_limiting": f.Gateway.RateLimiting, "gateway.api_key_validation": f.Gateway.APIKeyValidation,
		"token_service.quota_enforcement": f.TokenService.QuotaEnforcement, "token_service.saga_purchases": f.TokenService.SagaPurchases,
	}
}
