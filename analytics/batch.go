package analytics

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// batch is what some deliveries amount to.
type batch struct {
	rows       []Row         // to insert, each id once
	refused    map[int]error // by index of the delivery: never an event
	duplicates int           // events that are in rows already
}

// sortDeliveries decodes. An event that comes twice counts once: the earlier in the stream stands, as
// in the ledger, and a correction before what it corrects.
func sortDeliveries(deliveries []usage.Delivery, now time.Time) batch {
	b := batch{refused: map[int]error{}}
	at := make(map[string]int, len(deliveries))
	for i, d := range deliveries {
		event, err := usage.Decode(d.Data)
		if err != nil {
			b.refused[i] = err
			continue
		}
		row, err := newRow(event, d.Sequence, now)
		if err != nil {
			b.refused[i] = err
			continue
		}
		earlier, twice := at[row.RequestID]
		switch {
		case twice && row.precedence() > b.rows[earlier].precedence():
			b.rows[earlier] = row
			b.duplicates++
		case twice:
			b.duplicates++
		default:
			at[row.RequestID] = len(b.rows)
			b.rows = append(b.rows, row)
		}
	}
	return b
}

// token names the rows of one insert: "<stream>:<first seq>:<last seq>:<digest>". The
// digest is over every sequence number and id, since the engine drops a block whose
// token it knows: the same range with other rows in it (a redelivery that is whole where
// the first was not, or a stream that was made anew) must not be taken for it.
func token(stream string, rows []Row) string {
	first, last := rows[0].Seq, rows[0].Seq
	digest := sha256.New()
	var seq [8]byte
	for _, r := range rows {
		first, last = min(first, r.Seq), max(last, r.Seq)
		binary.BigEndian.PutUint64(seq[:], r.Seq)
		digest.Write(seq[:])
		digest.Write([]byte(r.ID()))
		digest.Write([]byte{0})
	}
	return fmt.Sprintf("%s:%d:%d:%s", stream, first, last, hex.EncodeToString(digest.Sum(nil)[:12]))
}
