package meter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/spool"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// write appends to a file, which it makes if need be.
func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// read takes batches until the lines are there, and gives them with the last position.
func read(t *testing.T, tl *tail, want int) (lines []string, damaged int, at position) {
	t.Helper()
	testenv.Eventually(t, fmt.Sprintf("%d lines", want), func() bool {
		b, err := tl.next(3)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range b.lines {
			lines = append(lines, string(l))
		}
		damaged, at = damaged+len(b.damaged), b.end
		return len(lines)+damaged >= want
	})
	return lines, damaged, at
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, ",") != strings.Join(want, ",") {
		t.Errorf("want lines %q, got %q", want, got)
	}
}

func TestTailWaitsForTheFileAndForWholeLines(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "usage.jsonl")
	tl := newTail(path)
	defer tl.close()
	if b, err := tl.next(10); err != nil || len(b.lines) != 0 {
		t.Fatalf("no file: want nothing, got %v, %v", b, err)
	}
	write(t, path, "one\ntwo\nthr")
	lines, _, at := read(t, tl, 2)
	expect(t, lines, "one", "two")
	if at.Offset != 8 {
		t.Errorf("want the position behind the whole lines, 8, got %d", at.Offset)
	}
	write(t, path, "ee\n\nfour\n")
	lines, _, _ = read(t, tl, 2)
	expect(t, lines, "three", "four")
}

func TestTailResumes(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "usage.jsonl")
	write(t, path, "one\ntwo\nthree\nfour\n")
	first := newTail(path)
	b, err := first.next(2)
	if err != nil {
		t.Fatal(err)
	}
	first.close()
	second := newTail(path)
	defer second.close()
	if found, err := second.seek(b.end); err != nil || !found {
		t.Fatalf("want the position, got %v, %v", found, err)
	}
	lines, _, _ := read(t, second, 2)
	expect(t, lines, "three", "four")

	// The same inode with another content: from the beginning.
	if err := os.WriteFile(path, []byte("ONE\nTWO\nTHREE\nFOUR\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if found, err := second.seek(b.end); err != nil || found {
		t.Fatalf("want the position to be gone, got %v, %v", found, err)
	}
	lines, _, _ = read(t, second, 4)
	expect(t, lines, "ONE", "TWO", "THREE", "FOUR")
}

// TestAnInodeThatIsUsedAgainIsAnotherFile, also when its first line begins as the old one's did: the
// calls of one caller differ behind the first 256 bytes.
func TestAnInodeThatIsUsedAgainIsAnotherFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "usage.jsonl")
	alike := strings.Repeat("x", headBytes)
	write(t, path, alike+" one\n"+alike+" two\n")
	first := newTail(path)
	_, _, at := read(t, first, 2)
	first.close()
	if err := os.WriteFile(path, []byte(alike+" ONE\n"+alike+" TWO\n"+alike+" THREE\n"), 0o600); err != nil { // keeps the inode
		t.Fatal(err)
	}
	second := newTail(path)
	defer second.close()
	if found, err := second.seek(at); err != nil || found {
		t.Fatalf("want the position to be gone, got %v, %v", found, err)
	}
	lines, _, _ := read(t, second, 3)
	expect(t, lines, alike+" ONE", alike+" TWO", alike+" THREE")
}

// TestAFinishedFileThatWasDeletedLeavesNoInode: file systems give an inode that is free to the next file,
// which is not finished for that.
func TestAFinishedFileThatWasDeletedLeavesNoInode(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "usage.jsonl")
	write(t, path, "one\n")
	tl := newTail(path)
	defer tl.close()
	for i, line := range []string{"two", "three", "four"} {
		read(t, tl, 1)
		moved := fmt.Sprintf("%s.%d", path, i+1)
		if err := os.Rename(path, moved); err != nil {
			t.Fatal(err)
		}
		if i > 0 { // read and not released yet
			if err := os.Remove(fmt.Sprintf("%s.%d", path, i)); err != nil {
				t.Fatal(err)
			}
		}
		write(t, path, line+"\n")
	}
	lines, _, _ := read(t, tl, 1)
	expect(t, lines, "four")
}

func TestTailFollowsRotation(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "usage.jsonl")
	write(t, path, "one\n")
	tl := newTail(path)
	defer tl.close()
	read(t, tl, 1)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write(t, path+".1", "two\n") // Envoy has not opened the new file yet
	lines, _, _ := read(t, tl, 1)
	expect(t, lines, "two")
	write(t, path, "four\n")
	write(t, path+".1", "three\n") // a straggler
	lines, _, _ = read(t, tl, 2)
	expect(t, lines, "three", "four")
	if err := os.Rename(path, path+".2"); err != nil {
		t.Fatal(err)
	}
	write(t, path, "five\n")
	lines, _, at := read(t, tl, 1)
	expect(t, lines, "five")
	if err := tl.release(at); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(path + "*"); len(left) != 1 {
		t.Errorf("want the finished files deleted, got %v", left)
	}
}

func TestTailReleasesOnlyWhatIsCheckpointed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "usage.jsonl")
	for i, name := range []string{path + ".9", path + ".10", path} {
		write(t, name, fmt.Sprintf("line %d\n", i))
	}
	tl := newTail(path)
	defer tl.close()
	lines, _, _ := read(t, tl, 1)
	_, _, middle := read(t, tl, 1)
	read(t, tl, 1)
	expect(t, lines, "line 0") // .9 before .10
	gone := position{Inode: 1 << 60, Offset: 7}
	if err := tl.release(gone); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + ".9"); err != nil {
		t.Errorf("deleted on the word of a file that nobody knows: %v", err)
	}
	if err := tl.release(middle); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + ".10"); err != nil {
		t.Errorf("the file of the checkpoint is gone: %v", err)
	}
	if _, err := os.Stat(path + ".9"); err == nil {
		t.Error("the file before the checkpoint is still there")
	}
	if found, err := tl.seek(middle); err != nil || !found {
		t.Errorf("want to go back, got %v, %v", found, err)
	}
	lines, _, _ = read(t, tl, 1)
	expect(t, lines, "line 2")
}

func TestTailAfterDeletionAndTruncation(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "usage.jsonl")
	write(t, path, "one\ntwo\n")
	tl := newTail(path)
	defer tl.close()
	read(t, tl, 2)
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	tl.looked = time.Time{} // it is time to look at the folder again: the file is shorter than the offset
	if _, err := tl.next(1); err != nil {
		t.Fatal(err)
	}
	write(t, path, "three\n")
	lines, _, _ := read(t, tl, 1)
	expect(t, lines, "three")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(t, path, "four\n")
	lines, _, _ = read(t, tl, 1)
	expect(t, lines, "four")
}

func TestTailSkipsDamage(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "usage.jsonl")
	long := strings.Repeat("x", spool.MaxLine+1)
	endless := strings.Repeat("y", 2*bufferBytes)
	write(t, path, "one\n"+long+"\ntwo\n"+endless+"\nthree\n")
	tl := newTail(path)
	defer tl.close()
	lines, damaged, _ := read(t, tl, 5)
	expect(t, lines, "one", "two", "three")
	if damaged != 2 {
		t.Errorf("want 2 damaged lines, got %d", damaged)
	}
	write(t, path, "half") // Envoy died in the middle of a line
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write(t, path, "four\n")
	lines, damaged, _ = read(t, tl, 2)
	expect(t, lines, "four")
	if damaged != 1 {
		t.Errorf("want the half line as damage, got %d", damaged)
	}
}

func TestCheckpoint(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "checkpoint")
	if p, err := loadCheckpoint(path); err != nil || p != (checkpoint{}) {
		t.Errorf("none: want zero, got %v, %v", p, err)
	}
	want := checkpoint{position: position{Inode: 7, Offset: 1 << 40, HeadBytes: 3, Head: 1 << 63}, Sequence: 9}
	if err := want.save(path); err != nil {
		t.Fatal(err)
	}
	if got, err := loadCheckpoint(path); err != nil || got != want {
		t.Errorf("want %v, got %v, %v", want, got, err)
	}
	for _, bad := range []string{"", "{", `{"offset":-1}`} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if p, err := loadCheckpoint(path); !errors.Is(err, errTorn) {
			t.Errorf("%q: want %v, got %v, %v", bad, errTorn, p, err)
		}
	}
}
