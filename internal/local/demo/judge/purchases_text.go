package judge

import (
	"fmt"
	"io"
	"strings"
)

// Print writes the verdict for people; the steps were told while they were taken.
func (v PurchaseVerdict) Print(to io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s calls of %s admitted, %s refused, seed %d\n", Thousands(int64(v.Admitted)), v.Account.Name,
		Thousands(int64(v.Refused)), v.Seed)
	if len(v.Purchases) == 2 {
		p := v.Purchases[1]
		fmt.Fprintf(&b, "top-up: 202 after %.1f ms; 202 to COMPLETED %.1f ms; commit of the credit to the first admitted call %.1f ms\n\n",
			p.Accepted, p.Completed,
			v.CommitToAdmitted)
	}
	var t Table
	t.Add("tokens by book", "credited", "spent", "held", "left")
	for _, line := range v.Books {
		t.Add(line.Book, line.told("credited", line.Credited), Thousands(line.Spent), told(line.Held), line.told("left", line.Left))
	}
	b.WriteString(t.String())
	if v.Captured != nil {
		fmt.Fprintf(&b, "the payment stub took %d minor units\n", *v.Captured)
	}
	for _, d := range v.Disagreements {
		fmt.Fprintf(&b, "  %s: client %s, stub %s, Redis %s, ledger %s, ClickHouse %s\n", d.ID, told(d.Client), told(d.Stub), told(d.Redis),
			told(d.Ledger), told(d.ClickHouse))
	}
	if v.OK {
		b.WriteString("\nOK: the account ran dry, was topped up and admitted again, and the books agree.\n")
	} else {
		b.WriteString("\nNOT OK:\n")
		for _, reason := range v.Reasons {
			fmt.Fprintf(&b, "  - %s\n", reason)
		}
	}
	_, err := io.WriteString(to, b.String())
	return err
}

// told writes a number if the book keeps it.
func (b *BookLine) told(what string, n int64) string {
	if !b.says(what) {
		return "-"
	}
	return Thousands(n)
}
