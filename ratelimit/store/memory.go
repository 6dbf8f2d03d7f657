package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"strconv"
	"time"
)

// What is settled is remembered by hashes, many in a key (lua/common.lua has the layout). A key of its
// own for each took 240 bytes of Redis for a call, and every sweep had to walk over it.
const (
	printBytes = 10 // of a call's hash: two calls of a million have the same in one of 10^12 cases
	entryBytes = printBytes + 4 + 3*6 + 1

	// memoryBits says how many keys there are for calls that are remembered for memorySpan: at 1700
	// calls a second some sixteen to a key, which each settlement writes whole. With 13 bits, 120 to a key,
	// that took three times as much of Redis. Longer memories have as many more, shorter ones fewer.
	memoryBits, leastMemoryBits, mostMemoryBits = 16, 8, 25
	memorySpan                                  = 10 * time.Minute
	// accountBits is the same in a cluster, for one account: its keys must be in its slot.
	accountBits = 12
)

// memoryWidth is how many bits of a hash choose the key.
func memoryWidth(kept time.Duration) int {
	const part = memorySpan>>memoryBits + 1
	return min(mostMemoryBits, max(leastMemoryBits, bits.Len64(uint64(max(0, kept-1)/part))))
}

// memory is where a settled call is remembered, and by what.
func (s *Store) memory(account, id string) (key, print string) {
	var room [192]byte
	hash := sha256.Sum256(append(append(append(room[:0], account...), 0), id...))
	print = string(hash[:printBytes])
	number := uint64(binary.LittleEndian.Uint32(hash[printBytes:]))
	if s.cluster {
		return s.config.Prefix + "{" + account + "}:s:" + strconv.FormatUint(number&(1<<accountBits-1), 16), print
	}
	return s.config.Prefix + "s:" + strconv.FormatUint(number&(1<<s.memoryBits-1), 16), print
}

// recall reads a call from a memory.
func recall(memory, print string) (Record, bool) {
	for ; len(memory) >= entryBytes; memory = memory[entryBytes:] {
		if memory[:printBytes] != print {
			continue
		}
		number := func(i int) int64 {
			var eight [8]byte
			copy(eight[:6], memory[printBytes+4+6*i:])
			return int64(binary.LittleEndian.Uint64(eight[:]))
		}
		return Record{State: StateSettled, Held: number(0), Charged: number(1), Output: number(2), Drawn: memory[entryBytes-1] == 1}, true
	}
	return Record{}, false
}

// recallAll fills in the records of calls that are settled.
func (s *Store) recallAll(ctx context.Context, account string, ids []string, records []Record) error {
	var keys, prints []string
	var at []int
	for i, r := range records {
		if r.State == StateNone {
			key, print := s.memory(account, ids[i])
			keys, prints, at = append(keys, key), append(prints, print), append(at, i)
		}
	}
	texts, err := s.get(ctx, keys)
	if err != nil {
		return err
	}
	for i, text := range texts {
		if r, ok := recall(text, prints[i]); ok {
			records[at[i]] = r
		}
	}
	return nil
}
