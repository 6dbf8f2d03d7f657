package demo

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"
)

// Sizes of what the clients ask for.
const (
	smallPrompt  = 2_000   // bytes
	mediumPrompt = 40_000  // bytes
	bigPrompt    = 200_000 // bytes
	largestScale = 4       // of medium and big prompts
	largest      = largestScale * bigPrompt
	hangUpEvery  = 10 // one client in so many hangs up in the middle of every stream
	hangUpAt     = 5  // which of them; spreads over the accounts
)

// ask is one request a client is going to make.
type ask struct {
	provider  int  // index into the targets
	model     int  // index into the target's models
	stream    bool //
	prompt    int  // bytes of the prompt's filling
	offset    int  // where in the filling text it begins
	answer    int  // tokens the stub is asked for
	maxTokens int  // 0: not stated
	newName   bool // say max_completion_tokens instead of max_tokens
	n         int  // choices; 0: not stated
	hangUp    int  // after so many chunks; 0: listen to the end
	manner    manner
}

// planner makes the sequence of one client: the same seed and client give the same one.
type planner struct {
	rng       *rand.Rand
	hangsUp   bool
	targets   int
	models    []int // per target
	tooLarge  int   // a max_tokens that no bucket of the account can hold; 0: never ask
	scale     float64
	rude      []judge.Protocol // of the targets, where calls have manners
	firstByte time.Duration    // the gateway's patience with a provider, for those
}

func newPlanner(seed uint64, client int, targets []judge.Target, tooLarge int, scale float64) *planner {
	p := &planner{rng: rand.New(rand.NewPCG(seed, uint64(client))), hangsUp: client%hangUpEvery == hangUpAt, targets: len(targets),
		tooLarge: tooLarge,
		scale:    scale}
	for _, t := range targets {
		p.models = append(p.models, len(t.Models))
	}
	return p
}

// next is what the client asks now.
func (p *planner) next() ask {
	r := p.rng
	a := ask{provider: r.IntN(p.targets), stream: p.hangsUp || r.IntN(2) == 0, offset: r.IntN(fillingLength)}
	a.model = r.IntN(p.models[a.provider])
	switch size := r.IntN(100); {
	case size < 45:
		a.prompt = 16 + r.IntN(smallPrompt)
	case size < 75:
		a.prompt = p.sized(smallPrompt + r.IntN(mediumPrompt-smallPrompt))
	default:
		a.prompt = p.sized(mediumPrompt + r.IntN(bigPrompt-mediumPrompt))
	}
	switch size := r.IntN(100); {
	case size < 70:
		a.answer = 4 + r.IntN(60)
	case size < 95:
		a.answer = 64 + r.IntN(136)
	default:
		a.answer = 200 + r.IntN(400)
	}
	p.maximum(&a)
	if !a.stream && r.IntN(20) == 0 {
		a.n = 2
	}
	if p.hangsUp {
		a.hangUp = 1 + r.IntN(a.answer)
	}
	if p.rude != nil {
		p.misbehave(&a, p.rude[a.provider])
	}
	return a
}

func (p *planner) sized(bytes int) int { return max(16, int(float64(bytes)*p.scale)) }

const (
	usualTokens = 9_000 // of an ask at scale 1, on average
	usualRate   = 1.5   // calls per second of one client, about
	demand      = 1.5   // times what the limits let pass: the clients must run into them
)

// promptScale sizes prompts so that the clients of an account together ask for more than
// its limit at one provider lets pass in the time given.
func promptScale(limit judge.Limit, run time.Duration, clients, providers, mostBytes int) float64 {
	calls := run.Seconds() * float64(clients) * usualRate / float64(providers)
	wanted := demand * (limit.Capacity + limit.Leak*run.Seconds()) / calls
	most := min(largestScale, float64(mostBytes)/2/bigPrompt)
	return min(max(wanted/usualTokens, 0.1), most)
}

// maximum states max_tokens in seven asks of ten: roomy, tight or far too large.
func (p *planner) maximum(a *ask) {
	r := p.rng
	a.newName = r.IntN(3) == 0
	switch kind := r.IntN(200); {
	case kind == 0 && p.tooLarge > 0:
		a.maxTokens = p.tooLarge
	case kind < 80:
		a.maxTokens = a.answer + r.IntN(2*a.answer)
	case kind < 120:
		a.maxTokens = 1 + r.IntN(a.answer)
	case kind < 140:
		a.maxTokens = 1_000 + r.IntN(7_000)
	}
}

const fillingLength = 1 << 16

// filling is text that needs no escape in JSON, longer than the largest prompt by
// fillingLength, so that a prompt is a slice of it.
func filling(seed uint64) string {
	const letters = "etaoin shrdlu cmfwyp vbgkqj xz "
	r := rand.New(rand.NewPCG(seed, 1<<32))
	text := make([]byte, fillingLength+largest)
	for i := range text {
		text[i] = letters[r.IntN(len(letters))]
	}
	return string(text)
}

// request writes an ask in the words of the target's protocol.
func (a *ask) request(t *judge.Target, text string) (path string, body []byte) {
	prompt := text[a.offset : a.offset+a.prompt]
	model := t.Models[a.model]
	body = make([]byte, 0, a.prompt+256)
	if t.Protocol == judge.ProtocolGemini {
		path = "/v1beta/models/" + model + ":generateContent"
		if a.stream {
			path = "/v1beta/models/" + model + ":streamGenerateContent?alt=sse"
		}
		body = fmt.Appendf(body, `{"contents":[{"role":"user","parts":[{"text":"[[tokens=%d]] %s"}]}]`, a.answer, prompt)
		if a.maxTokens > 0 {
			body = fmt.Appendf(body, `,"generationConfig":{"temperature":0.5,"maxOutputTokens":%d}`, a.maxTokens)
		}
		return path, append(body, '}')
	}
	content := fmt.Sprintf(`"[[tokens=%d]] %s"`, a.answer, prompt)
	if a.manner.pictures > 0 {
		content = a.withPictures(content)
	}
	body = fmt.Appendf(body, `{"model":%s,"messages":[{"role":"user","content":%s}]`, strconv.Quote(model), content)
	if a.stream {
		body = append(body, `,"stream":true,"stream_options":{"include_usage":true}`...) // the judge compares what clients are told
	}
	if a.n > 0 {
		body = fmt.Appendf(body, `,"n":%d`, a.n)
	}
	if a.maxTokens > 0 {
		name := "max_tokens"
		if a.newName {
			name = "max_completion_tokens"
		}
		body = fmt.Appendf(body, `,%q:%d`, name, a.maxTokens)
	}
	return t.Path, append(body, '}')
}

// withPictures is the content of a message of parts.
func (a *ask) withPictures(text string) string {
	url, detail := "https://example.com/a.png", "high"
	if a.manner.inline > 0 {
		url = "data:image/png;base64," + strings.Repeat("A", a.manner.inline)
	}
	if a.manner.low {
		detail = "low"
	}
	picture := fmt.Sprintf(`,{"type":"image_url","image_url":{"url":%q,"detail":%q}}`, url, detail)
	return `[{"type":"text","text":` + text + `}` + strings.Repeat(picture, a.manner.pictures) + `]`
}
