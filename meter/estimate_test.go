package meter

import (
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/spool"
)

// shape is how many bytes a provider's stream takes.
type shape struct {
	head, chunk, tail int64 // the role; one chunk around its text; the end with the usage
	perChunk          int64 // tokens of one chunk
	told              int64 // of head, as the reader tells it
}

// Measured on the stubs: OpenAI's chunks with a chunked-encoding frame, Gemini's with the usage in each.
var (
	openaiShape = shape{head: 345, chunk: 335, tail: 325 + 620 + 20, perChunk: 1}
	openaiThree = shape{head: 345, chunk: 335, tail: 325 + 620 + 20, perChunk: 3}
	geminiShape = shape{head: 0, chunk: 300, tail: 22, perChunk: 1}
	// Responses tell the whole object twice before the text, and once behind it.
	responsesShape = shape{head: 1900, chunk: 190, tail: 4200, perChunk: 1, told: 1880}
)

func (s shape) bytes(tokens int64) int64 {
	chunks := (tokens + s.perChunk - 1) / s.perChunk
	return chunks*s.chunk + tokens*4
}

func (s shape) line(tokens, prompt int64) *spool.Line {
	l := held(func(l *spool.Line) {
		l.Stream, l.Answer.Out, l.Answer.In = "true", tokens, prompt/4
		l.WireRecv, l.HeaderRecv = 250+s.head+s.bytes(tokens)+s.tail, 250
		l.Bytes = strconv.FormatInt(prompt+110, 10)
	})
	return &l
}

func TestEstimateOfACutStream(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]shape{"openai": openaiShape, "openai, three tokens a chunk": openaiThree, "gemini": geminiShape,
		"responses": responsesShape} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := NewEstimator(nil)
			rng := rand.New(rand.NewPCG(1, 2))
			for range 40 {
				e.learn(s.line(20+rng.Int64N(200), 100+rng.Int64N(4000)))
			}
			k := kind{provider: "openai", model: "gpt-4o", route: "openai-chat", stream: true}
			for _, served := range []int64{30, 60, 90, 150} {
				got := e.output(k, answered{bytes: s.head + s.bytes(served), head: s.told}, false)
				if failure := float64(got-served) / float64(served); failure < 0 || failure > 0.1 {
					t.Errorf("%d tokens served: estimated %d, off by %.0f %%", served, got, 100*failure)
				}
			}
			for _, prompt := range []int64{200, 1000, 10_000} {
				got := e.input(k, prompt+110)
				if failure := math.Abs(float64(got-prompt/4)) / float64(prompt/4); failure > 0.05 {
					t.Errorf("%d input tokens: estimated %d", prompt/4, got)
				}
			}
		})
	}
}

func TestEstimateWithLittleKnowledge(t *testing.T) {
	t.Parallel()
	k := kind{provider: "openai", model: "gpt-4o", route: "openai-chat", stream: true}
	cold := NewEstimator(func(string) Ratio { return Ratio{BytesPerToken: 100, TokensPerByte: 0.25} })
	if got := cold.output(k, answered{bytes: 1000}, false); got != 10 {
		t.Errorf("want the configured ratio, 10, got %d", got)
	}
	if got := cold.input(k, 1000); got != 250 {
		t.Errorf("want the configured ratio, 250, got %d", got)
	}
	if got := NewEstimator(nil).output(k, answered{bytes: 1000}, false); got != 5 {
		t.Errorf("want 200 bytes a token, got %d tokens", got)
	}
	same := NewEstimator(nil)
	for range 20 {
		same.learn(openaiShape.line(80, 400))
	}
	served := int64(30)
	if got := same.output(k, answered{bytes: openaiShape.head + openaiShape.bytes(served)}, false); got < served || got > served*5/4 {
		t.Errorf("answers of one length: want %d or a little more, got %d", served, got)
	}
	other := kind{provider: "openai", model: "gpt-never-seen", route: "openai-chat", stream: true}
	if got := same.output(other, answered{bytes: openaiShape.head + openaiShape.bytes(served)}, false); got < served || got > served*5/4 {
		t.Errorf("another model of the provider: want %d or a little more, got %d", served, got)
	}
	if got := same.output(k, answered{bytes: 0}, false); got != 0 {
		t.Errorf("no bytes: want 0, got %d", got)
	}
}

// TestEstimateOfALongInput: what a few short requests taught, and what many odd ones did, charges
// nobody a fraction of a long one that ended early.
func TestEstimateOfALongInput(t *testing.T) {
	t.Parallel()
	const bytes = 800_000
	k := kind{provider: "openai", model: "gpt-4o"}
	taught := func(times int, samples ...[2]int64) *Estimator {
		e := NewEstimator(nil)
		for range times {
			for _, s := range samples {
				l := openaiShape.line(20, 0)
				l.Answer.In, l.Bytes = s[0], strconv.FormatInt(s[1], 10)
				e.learn(l)
			}
		}
		return e
	}
	for name, c := range map[string]struct {
		e    *Estimator
		want int64
	}{
		"nothing learned":              {taught(0), bytes},
		"short requests, one of tools": {taught(20, [2]int64{9, 90}, [2]int64{12, 560}), bytes},
		"few as long":                  {taught(5, [2]int64{50_000, 250_000}, [2]int64{60_000, 300_000}), bytes},
		"requests of white space":      {taught(20, [2]int64{800, 900_000}), bytes / mostInputBytes},
		"text":                         {taught(20, [2]int64{20, 200}, [2]int64{40_000, 200_100}, [2]int64{50_000, 250_100}), 159_980},
	} {
		if got := c.e.input(k, bytes); got != c.want {
			t.Errorf("%s: want %d, got %d", name, c.want, got)
		}
	}
}

func TestEstimateOfAnAnswerWithoutUsage(t *testing.T) {
	t.Parallel()
	e := NewEstimator(nil)
	for n := int64(20); n < 120; n++ {
		e.learn(openaiShape.line(n, 400))
	}
	k := kind{provider: "openai", model: "gpt-4o", route: "openai-chat", stream: true}
	whole := openaiShape.head + openaiShape.bytes(80) + openaiShape.tail - 620
	if got := e.output(k, answered{bytes: whole}, true); got < 80 || got > 84 {
		t.Errorf("want 80 or a little more, got %d", got)
	}
}

func TestEstimatorLearnsOnlyFromWholeAnswers(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*spool.Line){
		"aborted": func(l *spool.Line) { l.Flags = "DC" }, "partial": func(l *spool.Line) { l.Answer.Whole = false },
		"no usage": unknownUsage, "an error": func(l *spool.Line) { l.Upstream = "500" },
	} {
		e := NewEstimator(nil)
		l := held(change)
		e.learn(&l)
		if len(e.outputs)+len(e.inputs) != 0 {
			t.Errorf("%s: learned %v %v", name, e.outputs, e.inputs)
		}
	}
}

func TestEstimatorForgetsTheOldest(t *testing.T) {
	t.Parallel()
	e := NewEstimator(nil)
	old := shape{chunk: 100, perChunk: 1}
	for n := range int64(200) {
		e.learn(old.line(20+n%50, 400))
	}
	for n := range int64(window) {
		e.learn(openaiShape.line(20+n%50, 400))
	}
	slope, _, ok := e.outputs[kind{provider: "openai", model: "gpt-4o", route: "openai-chat", stream: true}].line()
	if want := float64(openaiShape.chunk + 4); !ok || math.Abs(slope-want) > 0.01 {
		t.Errorf("want the new slope %v, got %v", want, slope)
	}
}

func TestEstimatorSurvivesARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "estimates.json")
	e := NewEstimator(nil)
	for n := int64(20); n < 60; n++ {
		e.learn(openaiShape.line(n, 10*n))
	}
	if err := e.Save(path); err != nil {
		t.Fatal(err)
	}
	again := NewEstimator(nil)
	if err := again.Load(path); err != nil {
		t.Fatal(err)
	}
	k := kind{provider: "openai", model: "gpt-4o", route: "openai-chat", stream: true}
	if want, got := e.output(k, answered{bytes: 10_000}, false), again.output(k, answered{bytes: 10_000}, false); want != got {
		t.Errorf("want %d, got %d", want, got)
	}
	if want, got := e.input(k, 10_000), again.input(k, 10_000); want != got {
		t.Errorf("want %d, got %d", want, got)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := NewEstimator(nil).Load(path); err == nil {
		t.Error("want an error from a damaged file")
	}
	if err := NewEstimator(nil).Load(path + ".none"); err != nil {
		t.Errorf("a missing file is no error, got %v", err)
	}
}

// TestAnswersOfOneModelDifferByTheirAPI: a token takes other bytes in each, so what one taught is
// not what another is charged by.
func TestAnswersOfOneModelDifferByTheirAPI(t *testing.T) {
	t.Parallel()
	e := NewEstimator(nil)
	for i := range int64(40) {
		for route, s := range map[string]shape{"openai-chat": openaiShape, "openai-responses": openaiThree} {
			l := s.line(20+i*5, 1000)
			l.Route = route
			e.learn(l)
		}
	}
	for route, s := range map[string]shape{"openai-chat": openaiShape, "openai-responses": openaiThree} {
		got := e.output(kind{provider: "openai", model: "gpt-4o", route: route, stream: true}, answered{bytes: s.head + s.bytes(90)}, false)
		if got < 90 || got > 99 {
			t.Errorf("%s: want 90 tokens or a little more, got %d", route, got)
		}
	}
}
