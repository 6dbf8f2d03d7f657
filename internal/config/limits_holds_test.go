package config

import (
	"strings"
	"testing"
	"time"
)

func TestHoldsRenewOnlyWhereCallsAreLonger(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		text        string
		life, every time.Duration
	}{
		"defaults":    {"", 10 * time.Minute, 0},
		"short calls": {"gateway: {max_stream_duration: 1m}", time.Minute, 0},
		"long calls":  {"gateway: {max_stream_duration: 2h}", 10 * time.Minute, 150 * time.Second},
		"short holds": {"holds: {life: 2m}", 2 * time.Minute, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := Parse([]byte(tc.text))
			if err != nil || c.HoldLife() != tc.life || c.RenewEvery() != tc.every {
				t.Errorf("want %s renewed each %s, got %s and %s, %v", tc.life, tc.every, c.HoldLife(), c.RenewEvery(), err)
			}
		})
	}
}

func TestModesOfMaxTokens(t *testing.T) {
	t.Parallel()
	c, err := Parse([]byte("limits: {max_tokens: {default: reject, routes: {qwen-chat: model_max}}}"))
	if err != nil || c.Limits.MaxTokens.For("openai-chat") != MaxTokensReject || c.Limits.MaxTokens.For("qwen-chat") != MaxTokensModel ||
		c.Limits.Explain != 2000 {
		t.Errorf("got %+v, %v", c, err)
	}
	for key, text := range map[string]string{
		"limits.max_tokens.default":          "limits: {max_tokens: {default: guess}}",
		"limits.max_tokens.routes.qwen-chat": "limits: {max_tokens: {routes: {qwen-chat: ''}}}",
		"limits.explain_last":                "limits: {explain_last: -1}",
		"holds.life":                         "holds: {life: 1ms}",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: want it refused by name, got %v", text, err)
		}
	}
}
