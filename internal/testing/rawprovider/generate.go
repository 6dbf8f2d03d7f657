package rawprovider

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// Answer is a generated answer and what it tells: the exact model of what a reader of it must
// find. A reader knows what passed and no more.
type Answer struct {
	Script string
	Text   string // the body, but of long ones
	Length int    // of the body, in bytes
	Stream bool
	Cut    bool // it breaks off: the provider ends the connection before its length
	// In and Out are the input and the output that it told, each as it was told last.
	In, Out int64
	// Events carried content, and After of them came after usage was told last.
	Events, After int64
}

// Counted says that what the provider told covers everything that passed.
func (a Answer) Counted() bool { return a.In > 0 && a.After == 0 }

// piece is a part of a body that comes as a whole: a usage object never breaks off within, since
// then what is told depends on the byte.
type piece struct {
	text    string
	fill    int   // letters after it
	in, out int64 // told at its end; 0: not
	content bool  // an event that carries content
}

// Generate makes an event stream or a JSON document with usage anywhere, told once or often,
// whole, by halves or growing, in any order, with any line ends, in pieces of any length, cut
// anywhere or whole, and now and then as long as 10 MB.
func Generate(r *rand.Rand) Answer {
	a := Answer{Stream: r.IntN(3) > 0}
	size := 0
	if r.IntN(12) == 0 {
		size = r.IntN(10 << 20)
	}
	var body []piece
	if a.Stream {
		body = events(r, size)
	} else {
		body = document(r, size)
	}
	if r.IntN(2) == 0 {
		a.Cut = true
		body = cut(r, body)
	}
	a.tell(r, body)
	return a
}

// tell follows the body and makes the script.
func (a *Answer) tell(r *rand.Rand, body []piece) {
	mean := []int{1, 8, 60, 400, 4000}[r.IntN(5)]
	var steps []string
	var text strings.Builder
	send := func() {
		for s := text.String(); s != ""; {
			n := min(len(s), 1+r.IntN(2*mean))
			steps = append(steps, Send(s[:n]))
			s = s[n:]
		}
		text.Reset()
	}
	for _, p := range body {
		text.WriteString(p.text)
		a.Text += p.text
		a.Length += len(p.text) + p.fill
		if p.fill > 0 {
			send()
			steps = append(steps, Fill(p.fill))
		}
		if p.content {
			a.Events, a.After = a.Events+1, a.After+1
		}
		if p.in > 0 {
			a.In, a.After = p.in, 0
		}
		if p.out > 0 {
			a.Out, a.After = p.out, 0
		}
	}
	send()
	if a.Length != len(a.Text) {
		a.Text = ""
	}
	a.Script = Script(append([]string{Send(a.head(r))}, steps...)...)
}

// head begins the answer. One that is cut promises more than comes.
func (a *Answer) head(r *rand.Rand) string {
	label := []string{"application/json", "text/event-stream", "text/plain", "application/octet-stream"}[r.IntN(4)]
	head := "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: " + label + "\r\n"
	if a.Cut {
		head += "content-length: " + strconv.Itoa(a.Length+1+r.IntN(1000)) + "\r\n"
	}
	return head + "\r\n"
}

// words look like usage and like the ends of things.
func words(r *rand.Rand) string {
	return []string{`word`, `\"usage\":{\"prompt_tokens\":7}`, `\\`, `\\\"`, `\n\ndata: {\"usage\"`, `usage`, `}]}`, `\u0022error\u0022`}[r.IntN(8)]
}

// usage is a usage object, maybe of one half, and what it tells.
func usage(r *rand.Rand) (text string, in, out int64) {
	half := r.IntN(3)
	number := func(n int64) string {
		if r.IntN(4) == 0 {
			return fmt.Sprintf(`"%d"`, n)
		}
		return strconv.FormatInt(n, 10)
	}
	first, second := `"prompt_tokens":`, `"completion_tokens":`
	if half != 1 {
		in = 1 + r.Int64N(5000)
		first += number(in)
	} else {
		first += []string{"0", "null"}[r.IntN(2)]
	}
	if half != 2 {
		out = 1 + r.Int64N(5000)
		second += number(out)
	} else {
		second += []string{"0", "null"}[r.IntN(2)]
	}
	members := []string{first, second, `"x":{"prompt_tokens":3}`}
	r.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	return `"usage": {` + strings.Join(members, " , ") + ` }`, in, out
}

// document is one JSON object.
func document(r *rand.Rand, size int) []piece {
	told, in, out := usage(r)
	members := []piece{
		{text: `"id":"` + words(r) + `"`},
		{text: `"choices":[{"message":{"content":"` + words(r) + `","tool":{"usage":{"prompt_tokens":1}}}}]`},
		{text: told, in: in, out: out},
	}
	if size > 0 {
		members = append(members, piece{text: `"pad":"`, fill: size})
	}
	r.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	body := []piece{{text: "{"}}
	for i, m := range members {
		if i > 0 {
			body = append(body, piece{text: ","})
		}
		body = append(body, m)
		if m.fill > 0 {
			body = append(body, piece{text: `"`})
		}
	}
	return append(body, piece{text: "}"})
}

// events is a stream that ends with usage, and may tell some before.
func events(r *rand.Rand, size int) []piece {
	end := []string{"\n", "\r", "\r\n"}[r.IntN(3)]
	var body []piece
	for range r.IntN(30) {
		if r.IntN(5) == 0 {
			body = append(body, piece{text: ": comment" + end + end})
		}
		head := `{"choices":[{"delta":{"content":"` + words(r) + `"}}]`
		if r.IntN(4) == 0 { // over two lines
			head += end + "data: "
		}
		p := piece{content: true}
		switch r.IntN(5) {
		case 0:
			var told string
			told, p.in, p.out = usage(r)
			head += "," + told
		case 1:
			head += `,"usage":null`
		}
		p.text = "data: " + head + "}" + end + end
		body = append(body, p)
	}
	if size > 0 {
		body = append(body, piece{text: `data: {"pad":"`, fill: size}, piece{text: `"}` + end + end})
	}
	told, in, out := usage(r)
	return append(body, piece{text: "data: {" + told + "}" + strings.Repeat(end, 1+r.IntN(2)), in: in, out: out})
}

// cut ends a body behind a piece, or within one that tells nothing.
func cut(r *rand.Rand, body []piece) []piece {
	n := r.IntN(len(body) + 1)
	kept := append([]piece(nil), body[:n]...)
	if n < len(body) && body[n].in+body[n].out == 0 {
		p := piece{text: body[n].text[:r.IntN(len(body[n].text))]}
		p.content = body[n].content && strings.ContainsAny(p.text, "\r\n") // its line came to its end
		return append(kept, p)
	}
	return kept
}
