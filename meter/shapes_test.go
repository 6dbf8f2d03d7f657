package meter

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/spool"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/reader"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/streams"
)

// shaped is the line of a stream of which these events passed: what the reader in Envoy tells of them,
// with the frames of a chunked answer around each on the wire.
func shaped(t *testing.T, script *reader.Script, api streams.API, events []streams.Event, flags string) *spool.Line {
	t.Helper()
	texts := streams.Texts(events)
	var report string
	if flags == "-" {
		_, report = script.Read(t, false, texts...)
	} else {
		report = script.ReadCut(t, texts...)
	}
	bytes := len(strings.Join(texts, ""))
	line := fmt.Sprintf(`{"id":"r","account":"user:0","held":100020,"held_in":20,"user":"u","route":"api-%s","provider":"p","model":"m","bytes":"90","wire":400,`+
		`"status":200,"up":"200","stream":"true","flags":%q,"recv_h":250,"recv":%d,"sent":%d,"answer":%q}`,
		api, flags, 250+bytes+7*len(events), bytes, report)
	l, err := spool.Parse([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return &l
}

// TestStreamsOfAllShapesOnOneModel: answers of one model come in many shapes and any order. One that is
// cut behind 30 of 100 tokens is charged within a tenth of them, whatever its shape and the ones before,
// for one account as for many. -v prints the worst errors, in brackets those of estimates by the bytes.
func TestStreamsOfAllShapesOnOneModel(t *testing.T) {
	t.Parallel()
	for _, api := range []streams.API{streams.Chat, streams.Responses, streams.Messages, streams.Gemini} {
		t.Run(string(api), func(t *testing.T) {
			t.Parallel()
			script, r := reader.New(t), rand.New(rand.NewPCG(30, 100))
			var whole []*spool.Line
			var cut []cutStream
			for _, s := range streams.Shapes() {
				for range 3 {
					l := shaped(t, script, api, streams.Of(api, s, 40+r.IntN(160)), "-")
					if !l.Answer.Counted() {
						t.Fatalf("%s: want its usage read, got %+v", s.Name, l.Answer)
					}
					whole = append(whole, l)
				}
				before, came := streams.Cut(streams.Of(api, s, 100), 30)
				cut = append(cut, cutStream{name: s.Name, came: came, line: shaped(t, script, api, before, "DC")})
			}
			for order := range 20 {
				e, byBytes := NewEstimator(nil), NewEstimator(nil)
				for range 4 {
					for _, at := range r.Perm(len(whole)) {
						l := by(fmt.Sprint("user:", r.IntN(1+order%5)), whole[at])
						e.learn(l)
						byBytes.learn(textless(l))
					}
					for i := range cut {
						c := &cut[i]
						c.wantCharged(t, e)
						c.errors[0].add(c.error(c.line, e))
						c.errors[1].add(c.error(textless(c.line), byBytes))
					}
				}
			}
			for _, c := range cut {
				t.Logf("| %s | %.0f %% (%.0f) |", c.name, c.errors[0], c.errors[1])
			}
		})
	}
}

// TestTheFirstStreamIsCut: nothing was learned of the model, and a token is about four bytes.
func TestTheFirstStreamIsCut(t *testing.T) {
	t.Parallel()
	script := reader.New(t)
	for _, api := range []streams.API{streams.Chat, streams.Responses, streams.Messages, streams.Gemini} {
		before, came := streams.Cut(streams.Of(api, streams.Shapes()[0], 100), 30)
		c := cutStream{name: string(api), came: came, line: shaped(t, script, api, before, "DC")}
		c.wantCharged(t, NewEstimator(nil))
	}
}

// cutStream is a stream that ended after so many tokens.
type cutStream struct {
	name   string
	came   int
	line   *spool.Line
	errors [2]worst // of what is charged, by the text and by the bytes
}

// worst is the largest of errors, in percent.
type worst float64

func (w *worst) add(percent float64) {
	if math.Abs(percent) > math.Abs(float64(*w)) {
		*w = worst(percent)
	}
}

// textless is a line whose text was not read.
func textless(l *spool.Line) *spool.Line {
	without := *l
	without.Answer.Said, without.Answer.Thought, without.Answer.Called, without.Answer.Wide = 0, 0, 0, 0
	return &without
}

// error is that of what the line is charged, in percent.
func (c *cutStream) error(l *spool.Line, e *Estimator) float64 {
	v := charge(l, e, byDefault, time.Now()).event
	return 100 * float64(v.Output-int64(c.came)) / float64(c.came)
}

func (c *cutStream) wantCharged(t *testing.T, e *Estimator) {
	t.Helper()
	if off := c.error(c.line, e); math.Abs(off) > 10 {
		t.Errorf("%s: the charge of %d tokens is %.0f %% off, from %+v", c.name, c.came, off, c.line.Answer)
	}
}
