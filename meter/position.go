package meter

import "hash/fnv"

// position is a place in the spool: everything before it is done.
type position struct {
	Inode  uint64 `json:"inode"`
	Offset int64  `json:"offset"` // bytes
	// Head is a hash of the first HeadBytes of the file, since inodes are used again.
	HeadBytes int    `json:"headBytes"` // at most headBytes and Offset
	Head      uint64 `json:"head"`
	// Foot is a hash of as many before Offset, since calls of one caller begin alike; 0: not known.
	Foot uint64 `json:"foot,omitzero"`
}

const headBytes = 256

// hashHead is FNV-1a.
func hashHead(head []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(head) // never fails
	return h.Sum64()
}
