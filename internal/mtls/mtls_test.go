package mtls_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/mtls"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

func authority(t *testing.T, dir string, lifetime time.Duration) *mtls.Authority {
	t.Helper()
	a, err := mtls.NewAuthority(dir, lifetime, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// serve runs tokensvc's port and returns its address.
func serve(t *testing.T, dir string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.TLS.PeerCertificates[0].SerialNumber.String())
	})
	done := make(chan error, 1)
	go func() {
		done <- httpapi.Serve(t.Context(), tls.NewListener(ln, mtls.Server(dir, "tokensvc", mtls.Callers("tokensvc")...)), h)
	}()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return ln.Addr().String()
}

func get(t *testing.T, client *http.Client, url string) (string, error) {
	t.Helper()
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return "", http.ErrNoLocation
	}
	return string(text), err
}

func TestOnlyTheCallersOfAServiceConnect(t *testing.T) {
	t.Parallel()
	dir, other := t.TempDir(), t.TempDir()
	authority(t, dir, time.Hour)
	authority(t, other, time.Hour)
	address := serve(t, dir)
	client := func(dir, part, service string) *http.Client {
		return httpClient(dir, part, service, 10*time.Second)
	}
	for _, caller := range mtls.Callers("tokensvc") {
		if _, err := get(t, client(dir, caller, "tokensvc"), "https://"+address); err != nil {
			t.Errorf("%s: %v", caller, err)
		}
	}
	bare := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	old := &http.Client{Transport: &http.Transport{TLSClientConfig: mtls.Client(dir, topology.Gateway, "tokensvc")}}
	old.Transport.(*http.Transport).TLSClientConfig.MinVersion = tls.VersionTLS12
	old.Transport.(*http.Transport).TLSClientConfig.MaxVersion = tls.VersionTLS12
	for name, c := range map[string]struct {
		client *http.Client
		scheme string
	}{
		"no TLS":               {&http.Client{Transport: &http.Transport{}}, "http://"},
		"no certificate":       {bare, "https://"},
		"a part without call":  {client(dir, "analytics", "tokensvc"), "https://"},
		"the service itself":   {client(dir, "tokensvc", "tokensvc"), "https://"},
		"another root":         {client(other, topology.Gateway, "tokensvc"), "https://"},
		"another service":      {client(dir, topology.Gateway, "identity"), "https://"},
		"TLS 1.2":              {old, "https://"},
		"no certificate there": {client(t.TempDir(), topology.Gateway, "tokensvc"), "https://"},
	} {
		if text, err := get(t, c.client, c.scheme+address); err == nil {
			t.Errorf("%s: served %q", name, text)
		}
	}
}

// TestRenewalNeedsNoRestart: both sides take the new certificate for the next connection.
func TestRenewalNeedsNoRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := authority(t, dir, time.Hour)
	address := serve(t, dir)
	client := httpClient(dir, topology.Gateway, "tokensvc", 10*time.Second)
	seen := map[string]bool{}
	for range 3 {
		serial, err := get(t, client, "https://"+address)
		if err != nil {
			t.Fatal(err)
		}
		seen[serial] = true
		if err := a.Renew(); err != nil {
			t.Fatal(err)
		}
	}
	if len(seen) != 3 {
		t.Errorf("want three certificates, got %d", len(seen))
	}
}

func TestAnotherAuthorityOfTheSameFolderGoesOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := authority(t, dir, time.Hour)
	second := authority(t, dir, time.Hour)
	if string(first.Roots()) != string(second.Roots()) || string(first.Pair("identity").Certificate) != string(second.Pair("identity").Certificate) {
		t.Error("want the same root and certificates that are not due kept")
	}
	path := mtls.CertificateFile(dir, "identity")
	if err := os.WriteFile(path, []byte("spoiled"), 0o600); err != nil {
		t.Fatal(err)
	}
	third := authority(t, dir, time.Hour)
	if string(third.Pair("identity").Certificate) == string(first.Pair("identity").Certificate) || len(third.Pair("identity").Key) == 0 {
		t.Error("want a spoiled certificate made anew")
	}
	for _, part := range mtls.Parts() {
		info, err := os.Stat(mtls.CertificateFile(dir, part))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: want mode 0600, got %v %v", part, info, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(mtls.Dir(dir), ".new-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// TestRenewalComesAtHalfOfALife also after a restart.
func TestRenewalComesAtHalfOfALife(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	before := authority(t, dir, time.Hour).Pair("identity")
	if kept := authority(t, dir, 50*time.Minute).Pair("identity"); string(kept.Certificate) != string(before.Certificate) {
		t.Error("want a young certificate kept")
	}
	a := authority(t, dir, time.Millisecond) // half of it is over by now
	renewed := make(chan struct{}, 1)
	go a.Run(t.Context(), func() {
		select {
		case renewed <- struct{}{}:
		default:
		}
	})
	<-renewed
	if after := a.Pair("identity"); string(after.Certificate) == string(before.Certificate) {
		t.Error("want a new certificate")
	}
}

// TestARenewalThatFailsIsTriedAgain at once, not at half of a life that no certificate has; who got a new
// one has it meanwhile, and when the first expires is told as it is.
func TestARenewalThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		const life = 24 * time.Hour
		a := authority(t, dir, life)
		identity, tokensvc := a.Pair("identity"), a.Pair("tokensvc")
		rounds := 0
		var done sync.WaitGroup
		ctx, stop := context.WithCancel(t.Context())
		done.Go(func() { a.Run(ctx, func() { rounds++ }) })
		// What cannot be replaced, nor read.
		path := mtls.CertificateFile(dir, "identity")
		if err := errors.Join(os.Remove(path), os.MkdirAll(filepath.Join(path, "in the way"), 0o700)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(life/2 + time.Minute)
		synctest.Wait()
		if rounds != 1 || string(a.Pair("tokensvc").Certificate) == string(tokensvc.Certificate) {
			t.Errorf("want the other parts' certificates renewed and told once, told %d times", rounds)
		}
		if string(a.Pair("identity").Certificate) != string(identity.Certificate) {
			t.Error("want the certificate of before where the new one cannot be written")
		}
		if left := time.Until(a.Expires()); left > 0 {
			t.Errorf("want a missing certificate told as expired, lasts %v", left)
		}
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if rounds != 2 || string(a.Pair("identity").Certificate) == string(identity.Certificate) {
			t.Errorf("want it renewed and told, told %d times", rounds)
		}
		if left := time.Until(a.Expires()); left < life-2*time.Minute {
			t.Errorf("want the renewed ones' life, got %v", left)
		}
		stop()
		done.Wait()
	})
}

// httpClient calls one service over https with the part's certificate.
func httpClient(dir, part, service string, timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: &http.Transport{TLSClientConfig: mtls.Client(dir, part, service)}}
}
