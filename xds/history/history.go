// Package history is beside the request path: it remembers every configuration that was given to
// Envoys, with who wanted it, when, why and what became of it, in a bucket of NATS. So every xds
// and every `leaky` on any machine sees the same versions, and can go back to each of them.
//
// Keys of the bucket:
//
//	version.00000012  a Version; numbers are given once, by who creates the key
//	content.<hash>    the files of one or more versions, compressed
//	said.<hash>       who wants a content and why, from `leaky push` until xds has a version of it
package history

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Bucket is the bucket's name.
const Bucket = "leaky-config"

const (
	keptVersions = 200      // older ones are forgotten
	maxContent   = 900_000  // bytes of one value; the server takes a message of 1 MiB
	maxRead      = 16 << 20 // bytes of all files of a version
	maxSaid      = 200      // characters of who and why
)

// State is what became of a version.
type State string

// States of a version.
const (
	Taken   State = "taken"   // all Envoys got it; the newest of these is live
	Refused State = "refused" // it was undone, or never given to an Envoy
)

// Version is one configuration.
type Version struct {
	Number int       `json:"number"`
	Hash   string    `json:"hash"`            // of the files
	Envoy  string    `json:"envoy,omitempty"` // version of the resources that Envoys got
	At     time.Time `json:"at"`
	Who    string    `json:"who,omitempty"` // empty: the files were edited in place
	Why    string    `json:"why,omitempty"`
	State  State     `json:"state"`
	Reason string    `json:"reason,omitempty"` // why it was refused
	Node   string    `json:"node,omitempty"`   // the Envoy that refused it
	Type   string    `json:"type,omitempty"`   // of what it refused, e.g. Cluster
}

// ErrUnknown says that there is no such version.
var ErrUnknown = errors.New("no such version")

// ErrNoContent says that a version's files are not kept: they were too large, or had a mistake.
var ErrNoContent = errors.New("the files of this version are not kept")

// History reads and writes the bucket.
type History struct{ kv jetstream.KeyValue }

// Open makes the bucket if it is not there.
func Open(ctx context.Context, nc *nats.Conn) (*History, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("open history: %w", err)
	}
	kv, err := js.KeyValue(ctx, Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: Bucket, Storage: jetstream.FileStorage,
			Description: "versions of leaky.yaml and the limits"})
	}
	if err != nil {
		return nil, fmt.Errorf("open history: %w", err)
	}
	return &History{kv: kv}, nil
}

// List is every version that is remembered, the oldest first.
func (h *History) List(ctx context.Context) ([]Version, error) {
	watch, err := h.kv.Watch(ctx, "version.*", jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("list versions: %w", err)
	}
	defer func() { _ = watch.Stop() }() // the connection may be gone, and the watch with it
	var all []Version
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("list versions: %w", context.Cause(ctx))
		case entry, open := <-watch.Updates():
			if !open {
				return nil, errors.New("list versions: the link to NATS was lost")
			}
			if entry == nil { // that was all
				slices.SortFunc(all, func(a, b Version) int { return a.Number - b.Number })
				return all, nil
			}
			var v Version
			if err := json.Unmarshal(entry.Value(), &v); err != nil {
				return nil, fmt.Errorf("read %s: %w", entry.Key(), err)
			}
			all = append(all, v)
		}
	}
}

// Live is the version that Envoys run: the newest that was taken.
func Live(all []Version) (Version, bool) {
	for _, v := range slices.Backward(all) {
		if v.State == Taken {
			return v, true
		}
	}
	return Version{}, false
}

// Get is one version. Errors are ErrUnknown and those of the link.
func (h *History) Get(ctx context.Context, number int) (Version, error) {
	entry, err := h.kv.Get(ctx, versionKey(number))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Version{}, fmt.Errorf("version %d: %w", number, ErrUnknown)
	}
	var v Version
	if err == nil {
		err = json.Unmarshal(entry.Value(), &v)
	}
	if err != nil {
		return Version{}, fmt.Errorf("read version %d: %w", number, err)
	}
	return v, nil
}

// Files are the files of a version. ErrNoContent if they are not kept.
func (h *History) Files(ctx context.Context, v Version) (Files, error) {
	if v.Hash == "" {
		return Files{}, fmt.Errorf("version %d: %w", v.Number, ErrNoContent)
	}
	entry, err := h.kv.Get(ctx, contentKey(v.Hash))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Files{}, fmt.Errorf("version %d: %w", v.Number, ErrNoContent)
	}
	if err != nil {
		return Files{}, fmt.Errorf("read files of version %d: %w", v.Number, err)
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(entry.Value()))
	if err != nil {
		return Files{}, fmt.Errorf("read files of version %d: %w", v.Number, err)
	}
	var files Files
	if err := json.NewDecoder(io.LimitReader(unpacked, maxRead)).Decode(&files); err != nil {
		return Files{}, fmt.Errorf("read files of version %d: %w", v.Number, err)
	}
	return files, nil
}

// said is what `leaky push` says of a content.
type said struct{ Who, Why string }

// Say notes who wants the content of a hash and why, for the version that xds makes of it.
func (h *History) Say(ctx context.Context, hash, who, why string) error {
	text, err := json.Marshal(said{short(who), short(why)})
	if err == nil {
		_, err = h.kv.Put(ctx, saidKey(hash), text)
	}
	if err != nil {
		return fmt.Errorf("note who pushes: %w", err)
	}
	return nil
}

// short bounds what people say, and keeps it on one line.
func short(text string) string {
	runes := []rune(strings.Join(strings.Fields(text), " "))
	return string(runes[:min(len(runes), maxSaid)])
}

func (h *History) heard(ctx context.Context, hash string) (who said, pushed bool, err error) {
	entry, err := h.kv.Get(ctx, saidKey(hash))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return said{}, false, nil
	}
	if err == nil {
		err = json.Unmarshal(entry.Value(), &who)
	}
	return who, err == nil, err
}

// Record makes a version of what became of a content, unless there is one already. It gives the
// version, and whether that is news.
func (h *History) Record(ctx context.Context, v Version, files Files) (Version, bool, error) {
	who, pushed, err := h.heard(ctx, v.Hash)
	if err != nil {
		return v, false, fmt.Errorf("record version: %w", err)
	}
	all, err := h.List(ctx)
	if err != nil {
		return v, false, fmt.Errorf("record version: %w", err)
	}
	live, _ := Live(all)
	latest := Version{}
	if len(all) > 0 {
		latest = all[len(all)-1]
	}
	switch {
	case v.State == Refused && live.Hash == v.Hash && live.Number == latest.Number && !pushed: // taken, and undone later
		v.Number, v.Who, v.Why = live.Number, live.Who, live.Why
		return v, true, h.put(ctx, v)
	case !pushed && v.State == Taken && live.Hash == v.Hash:
		return live, false, nil
	case !pushed && latest.State == v.State && latest.Hash == v.Hash:
		return latest, false, nil
	}
	v.Who, v.Why = who.Who, who.Why
	if v, err = h.create(ctx, v, latest.Number, files); err != nil {
		return v, false, fmt.Errorf("record version: %w", err)
	}
	if pushed {
		err = h.kv.Purge(ctx, saidKey(v.Hash))
	}
	return v, true, errors.Join(err, h.forget(ctx, append(all, v)))
}

// Refuse makes a version of what was refused before any Envoy was asked: it had a mistake.
func (h *History) Refuse(ctx context.Context, v Version) error {
	all, err := h.List(ctx)
	if err == nil {
		last := 0
		if len(all) > 0 {
			last = all[len(all)-1].Number
		}
		v.State, v.Hash, v.Who, v.Why = Refused, "", short(v.Who), short(v.Why)
		v, err = h.create(ctx, v, last, Files{})
	}
	if err == nil {
		err = h.forget(ctx, append(all, v))
	}
	if err != nil {
		return fmt.Errorf("record version: %w", err)
	}
	return nil
}

// create writes the files, then the version under the next number that nobody took meanwhile.
func (h *History) create(ctx context.Context, v Version, last int, files Files) (Version, error) {
	if content := pack(files); v.Hash != "" && len(content) <= maxContent {
		if _, err := h.kv.Create(ctx, contentKey(v.Hash), content); err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
			return v, err
		}
	}
	for v.Number = last + 1; ; v.Number++ {
		text, err := json.Marshal(v)
		if err != nil {
			return v, err
		}
		if _, err = h.kv.Create(ctx, versionKey(v.Number), text); !errors.Is(err, jetstream.ErrKeyExists) {
			return v, err
		}
	}
}

func (h *History) put(ctx context.Context, v Version) error {
	text, err := json.Marshal(v)
	if err == nil {
		_, err = h.kv.Put(ctx, versionKey(v.Number), text)
	}
	if err != nil {
		return fmt.Errorf("record version: %w", err)
	}
	return nil
}

// forget removes the oldest versions beyond those that are kept, and files that no version has.
func (h *History) forget(ctx context.Context, all []Version) error {
	n := max(0, len(all)-keptVersions)
	var errs []error
	for _, old := range all[:n] {
		errs = append(errs, h.kv.Purge(ctx, versionKey(old.Number)))
		if old.Hash != "" && !slices.ContainsFunc(all[n:], func(v Version) bool { return v.Hash == old.Hash }) {
			errs = append(errs, h.kv.Purge(ctx, contentKey(old.Hash)))
		}
	}
	return errors.Join(errs...)
}

func pack(files Files) []byte {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_ = json.NewEncoder(w).Encode(files) // strings into memory: it cannot fail
	_ = w.Close()
	return packed.Bytes()
}

// versionKey sorts as the number does.
func versionKey(number int) string {
	text := strconv.Itoa(number)
	return "version." + strings.Repeat("0", max(0, 8-len(text))) + text
}

func contentKey(hash string) string { return "content." + hash }
func saidKey(hash string) string    { return "said." + hash }
