package xds

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/xds/history"
	"github.com/leaky-tokens/leaky-tokens/xds/server"
)

// wake tells who waits on c, which has room for one, that there is something to do.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is told already
	}
}

// refresh offers the files' present content. What was offered before it and waits is left out,
// and what is being published waits no longer for an Envoy that does not answer.
//
// A content that cannot be made into Envoy's configuration is a bad one, and refused for all parts as one
// that an Envoy refuses: no try would end otherwise. One that lacks what lies outside it is not: a
// certificate may come a second after leaky.yaml that names it, or the disk be full. It is tried again,
// and other parts may follow it meanwhile.
func (x *XDS) refresh() {
	set, err := x.files.Refresh()
	if refused, ok := errors.AsType[*settings.RefusedError](err); ok && x.told(refused.Hash) {
		x.lacks(nil, nil)
		return // we said so ourselves
	}
	var next loaded
	var outside error
	if err == nil {
		if next, err = x.source.load(set); err != nil {
			next.settings = set
			if _, waits := errors.AsType[*outsideError](err); waits {
				outside = err
			} else {
				x.goBack(next, err)
			}
		}
	}
	if known := x.lacks(set, outside); known {
		return
	}
	x.offer(&offer{next: next, err: err})
}

// lacks notes which content cannot be loaded just now; without an error there is none. It reports whether
// that was told before, for the same reason.
func (x *XDS) lacks(set *settings.Settings, because error) (known bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	before := x.unloaded
	if x.unloaded = nil; because == nil {
		return false
	}
	x.unloaded = set
	return before != nil && before.Hash == set.Hash && x.failed != nil && x.failed.Content == set.Hash && x.failed.Reason == because.Error()
}

// patience is how many looks at the files lie between two tries of a content that cannot be loaded.
// What it lacks may be in no file that is looked at.
const patience = 5

// reloads has the files looked at again when that is asked for, and while a content waits for what it
// lacks, until ctx ends.
func (x *XDS) reloads(ctx context.Context, again chan<- struct{}) {
	tick := time.NewTicker(patience * x.poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-x.reload:
			wake(again)
		case <-tick.C:
			x.mu.Lock()
			waits := x.unloaded != nil
			x.mu.Unlock()
			if waits {
				wake(again)
			}
		}
	}
}

// offer puts one in the place of that which waits.
func (x *XDS) offer(o *offer) {
	x.mu.Lock()
	x.offered = o
	x.hurry()
	x.mu.Unlock()
	wake(x.work)
}

// hurry has what is being published wait no longer for an Envoy that does not answer: something
// newer is there. x.mu is held.
func (x *XDS) hurry() {
	if x.newer != nil {
		close(x.newer)
		x.newer = nil
	}
}

// told reports whether it is known why a content is not taken.
func (x *XDS) told(hash string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.failed != nil && x.failed.Content == hash
}

// publishOffers publishes what is offered, one after the other, until ctx ends. A new certificate or other
// endpoints that failed for what lies outside, such as a full disk, are tried again: nobody tells of them
// a second time.
func (x *XDS) publishOffers(ctx context.Context) {
	tick := time.NewTicker(x.poll)
	defer tick.Stop()
	renewed, followed := true, true
	for {
		select {
		case <-ctx.Done():
			return
		case <-x.renewal:
			renewed = x.renewed(ctx)
		case <-x.moved:
			followed = x.follow(ctx)
		case <-x.work:
			x.takeOffer(ctx)
		case <-tick.C:
			if !renewed {
				wake(x.renewal)
			}
			if !followed {
				wake(x.moved)
			}
			continue
		}
		x.keepProven(ctx)
		x.serveLimits(ctx)
	}
}

// serveLimits gives limiters the rules of the live content.
func (x *XDS) serveLimits(ctx context.Context) {
	x.mu.Lock()
	live := x.live
	x.mu.Unlock()
	if live.settings == x.limited {
		return
	}
	x.limited = live.settings
	x.server.Limits(live.limits)
	if live.unsaid != nil {
		x.log.LogAttrs(ctx, slog.LevelInfo, "limiters that ask for rules do not get all", slog.Any("because", live.unsaid))
	}
}

// takeOffer publishes what is offered, if there is something.
func (x *XDS) takeOffer(ctx context.Context) {
	x.mu.Lock()
	o := x.offered
	x.offered = nil
	x.mu.Unlock()
	if o == nil {
		return
	}
	err := o.err
	if err == nil && x.behind(o.next) {
		set := o.next.settings
		if o.next, err = x.source.load(set); err != nil {
			o.next.settings = set
			x.lacks(set, err) // it could be loaded a moment ago: whatever it is, it lies outside
		}
	}
	if err == nil {
		err = x.publish(ctx, o.next)
	}
	switch {
	case err == nil:
		x.taken(o.next)
	case ctx.Err() == nil:
		if refused, ok := errors.AsType[*server.Refused](err); ok {
			x.goBack(o.next, refused)
		}
		x.fail(ctx, err, o.next)
	}
}

// What is said of endpoints and certificates that are not taken.
const (
	unfollowed = "endpoints stay as they are"
	unrenewed  = "envoys keep their old certificate"
)

// renewed gives Envoys their new certificate, whatever the files hold by now: a mistake in
// them must not let the certificate run out. It is false where that is to be tried again.
func (x *XDS) renewed(ctx context.Context) (done bool) {
	err := writeBootstrapSecrets(x.source.dir, x.source.issuer)
	done = err == nil
	x.mu.Lock()
	same := x.live
	x.mu.Unlock()
	var renewErr error
	if same.snapshot, renewErr = same.snapshot.WithSecret(gatewaySecret(x.source.issuer)); renewErr == nil {
		renewErr = x.publish(ctx, same)
	}
	if err = errors.Join(err, renewErr); err != nil && ctx.Err() == nil {
		x.said.Say(ctx, slog.LevelError, unrenewed, err)
	} else if err == nil {
		x.said.Over(ctx, unrenewed, "envoys get their new certificate again")
	}
	return done
}

// fail notes why a configuration is not taken.
func (x *XDS) fail(ctx context.Context, err error, tried loaded) {
	x.mu.Lock()
	x.failed = failure(err, tried)
	x.mu.Unlock()
	x.note(tried, err)
	x.log.LogAttrs(ctx, slog.LevelError, "configuration not taken, the last good one stays", slog.Any("error", err))
}

// publish makes a configuration live; it is not before every Envoy that answers has it.
func (x *XDS) publish(ctx context.Context, next loaded) error {
	x.mu.Lock()
	live, newer := x.live, make(chan struct{})
	x.undone, x.newer = nil, newer
	if live.snapshot != nil && (x.offered != nil || len(x.moved) > 0) {
		x.hurry()
	}
	x.mu.Unlock()
	changes := live.snapshot == nil || live.snapshot.Version != next.snapshot.Version
	var refused error
	if changes {
		x.log.LogAttrs(ctx, slog.LevelInfo, "publishing configuration", slog.String("version", next.snapshot.Version),
			slog.Int("routes", len(next.gateway.Routes)), slog.Int("clusters", len(next.gateway.Clusters)))
		refused = x.server.Publish(ctx, next.snapshot, newer)
		if refused != nil && (live.snapshot != nil || ctx.Err() != nil) {
			x.mu.Lock()
			if x.back.snapshot != nil && live.snapshot.Version != x.proven { // as the server does
				x.live = x.back
			}
			x.mu.Unlock()
			return refused
		}
	}
	x.mu.Lock()
	if early := x.undone; changes && early != nil && early.Tried == next.snapshot.Version {
		x.undone = nil
		x.mu.Unlock()
		return early
	}
	if changes {
		if x.back.snapshot == nil || live.snapshot.Version == x.proven { // as the server does
			x.back = live
		}
		x.since = time.Now().UTC()
	}
	x.live = next
	x.mu.Unlock()
	if refused != nil { // the first of all stays, for an Envoy that can take it
		x.fail(ctx, refused, next)
	}
	return nil
}

// taken notes that the files' present content is live.
func (x *XDS) taken(now loaded) {
	x.mu.Lock()
	x.failed = nil
	x.mu.Unlock()
	x.note(now, nil)
}

// note tells the history what became of a configuration: it is live, or refused for a reason.
func (x *XDS) note(tried loaded, because error) {
	if x.record == nil {
		return
	}
	v, files := history.Version{State: history.Taken}, history.Files{}
	if because != nil {
		f := failure(because, tried)
		v.State, v.Reason, v.Node, v.Type = history.Refused, f.Reason, f.Node, f.Type
	}
	if tried.settings != nil {
		v.Hash, files = tried.settings.Hash, history.FilesOf(tried.settings.Path(), tried.settings.Texts())
	}
	if tried.snapshot != nil {
		v.Envoy = tried.snapshot.Version
	}
	x.record.Note(v, files)
}

// took notes that an Envoy runs a version.
func (x *XDS) took(version string) {
	x.mu.Lock()
	x.proven = version
	x.mu.Unlock()
	wake(x.work)
}

// takeBack takes back a configuration that an Envoy refused late, perhaps before publish has
// made it live here.
func (x *XDS) takeBack(refused *server.Refused) {
	x.mu.Lock()
	if x.live.snapshot == nil || x.live.snapshot.Version != refused.Tried {
		x.undone = refused
		x.mu.Unlock()
		return
	}
	tried := x.live
	x.live, x.since = x.back, time.Now().UTC()
	wake(x.work) // for what follows the live content
	same := x.live.settings == tried.settings
	x.mu.Unlock()
	if same { // the files are as good as before
		x.log.LogAttrs(context.Background(), slog.LevelError, "endpoints or a certificate are refused", slog.Any("error", refused))
		return
	}
	if x.source.registry != nil {
		wake(x.moved) // the endpoints of before may be gone
	}
	x.goBack(tried, refused)
	x.fail(context.Background(), refused, tried)
}

// goBack makes what is live the last good content, for the other parts and for the next start.
func (x *XDS) goBack(tried loaded, because error) {
	x.mu.Lock()
	live := x.live.settings
	x.mu.Unlock()
	if x.files != nil && tried.settings != nil {
		x.files.Refuse(tried.settings.Hash, live, because)
	}
}

// watched are the files of the configuration, and those with keys and certificates: of the live one, and
// of one that waits for them.
func (x *XDS) watched() []string {
	x.mu.Lock()
	live, next := x.live.settings, x.unloaded
	x.mu.Unlock()
	return slices.Concat(x.files.Files(), keyFiles(live), certificateFiles(live), keyFiles(next), certificateFiles(next))
}

// Problem is what does not work of the live configuration, while the rest does, and why the files' present
// content cannot be loaded; nil: nothing.
func (x *XDS) Problem() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	var problems []string
	if x.live.gateway != nil {
		problems = slices.Clone(x.live.gateway.Problems)
	}
	if x.unloaded != nil && x.failed != nil {
		problems = append(problems, "what the files hold waits, and the gateway runs the content before: "+x.failed.Reason)
	}
	if len(problems) == 0 {
		return nil
	}
	return errors.New(strings.Join(problems, "; "))
}
