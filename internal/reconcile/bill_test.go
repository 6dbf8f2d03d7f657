package reconcile_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leaky-tokens/leaky-tokens/internal/reconcile"
)

const billHeader = "start_time_iso,model,num_model_requests,input_tokens,output_tokens,amount_value,amount_currency\n"

func TestBillsAreRead(t *testing.T) {
	t.Parallel()
	day, model := "2026-11-29", "gpt-4o"
	line := reconcile.Billed{Requests: 2, Input: 30, Output: 40, Micros: 1_500_000, Currency: "USD"}
	for name, tc := range map[string]struct {
		text string
		want reconcile.Billed
		err  string
	}{
		"as exported":      {billHeader + "2026-11-29T00:00:00Z,gpt-4o,2,30,40,1.5,usd\n", line, ""},
		"two lines":        {billHeader + "2026-11-29,gpt-4o,1,10,20,1,USD\n2026-11-29T23:59:59Z,gpt-4o,1,20,20,0.5,USD\n", line, ""},
		"an offset":        {billHeader + "2026-11-30T00:30:00+01:00,gpt-4o,2,30,40,1.5,USD\n", line, ""},
		"seconds of Unix":  {"start_time,model,input_tokens,output_tokens\n1795910400,gpt-4o,30,40\n", reconcile.Billed{Input: 30, Output: 40}, ""},
		"a mark, capitals": {"\ufeffDate, Model ,input_tokens,output_tokens,more\n2026-11-29,gpt-4o,30,40,x\n", reconcile.Billed{Input: 30, Output: 40}, ""},
		"line items":       {"date,line_item,amount_value,amount_currency\n2026-11-29,\"gpt-4o, input\",1,USD\n2026-11-29,\"gpt-4o, output\",0.5000004,USD\n", reconcile.Billed{Micros: 1_500_000, Currency: "USD"}, ""},
		"empty":            {"", reconcile.Billed{}, "no header"},
		"a header alone":   {billHeader, reconcile.Billed{}, "no lines"},
		"no model":         {"date,input_tokens,output_tokens\n2026-11-29,1,2\n", reconcile.Billed{}, "the header needs"},
		"no numbers":       {"date,model\n2026-11-29,gpt-4o\n", reconcile.Billed{}, "the header needs"},
		"a bad day":        {billHeader + "29.11.2026,gpt-4o,2,30,40,1.5,USD\n", reconcile.Billed{}, "costs.csv:2: column day"},
		"a bad count":      {billHeader + "2026-11-29,gpt-4o,2,-30,40,1.5,USD\n", reconcile.Billed{}, "costs.csv:2: column input"},
		"too many":         {billHeader + "2026-11-29,gpt-4o,2,30,9007199254740993,1.5,USD\n", reconcile.Billed{}, "column output"},
		"a bad amount":     {billHeader + "2026-11-29,gpt-4o,2,30,40,1e9,USD\n", reconcile.Billed{}, "column amount"},
		"two currencies":   {billHeader + "2026-11-29,gpt-4o,2,30,40,1,USD\n2026-11-29,gpt-4o,2,30,40,1,EUR\n", reconcile.Billed{}, "costs.csv:3: column currency"},
		"no name":          {billHeader + "2026-11-29,,2,30,40,1,USD\n", reconcile.Billed{}, "column model"},
		"a short line":     {billHeader + "2026-11-29,gpt-4o\n", reconcile.Billed{}, "wrong number of fields"},
	} {
		got, err := reconcile.ParseBill("costs.csv", strings.NewReader(tc.text))
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: want an error with %q, got %v", name, tc.err, err)
			}
			continue
		}
		if diff := cmp.Diff(map[reconcile.BillKey]reconcile.Billed{{Day: day, Model: model}: tc.want}, got.Lines); err != nil || diff != "" {
			t.Errorf("%s: %v, (-want +got):\n%s", name, err, diff)
		}
	}
}

func FuzzParseBill(f *testing.F) {
	f.Add(billHeader + "2026-11-29T00:00:00Z,gpt-4o,2,30,40,1.5,usd\n")
	f.Add("date,line_item,amount_value\n2026-11-29,\"gpt-4o, input\",-1\n")
	f.Fuzz(func(t *testing.T, text string) {
		bill, err := reconcile.ParseBill("costs.csv", strings.NewReader(text))
		if err != nil {
			return
		}
		if from, to := bill.Days(); !from.Before(to) {
			t.Errorf("want days, got %v to %v", from, to)
		}
		reconcile.CompareBill("openai", bill, nil)
	})
}

func TestABillSaysWhatExplainsIt(t *testing.T) {
	t.Parallel()
	used := func(change func(*reconcile.Used)) reconcile.Used {
		u := reconcile.Used{Requests: 2, Input: 30, Output: 40, Costs: map[string]int64{"USD": 1_500_000}}
		if change != nil {
			change(&u)
		}
		return u
	}
	key := reconcile.BillKey{Day: "2026-11-29", Model: "gpt-4o"}
	for name, tc := range map[string]struct {
		line    string
		ours    map[reconcile.BillKey]reconcile.Used
		verdict string
		why     string
	}{
		"equal":           {"2,30,40,1.5,USD", map[reconcile.BillKey]reconcile.Used{key: used(nil)}, reconcile.BillEqual, ""},
		"rounded":         {"2,30,40,1.500002,USD", map[reconcile.BillKey]reconcile.Used{key: used(nil)}, reconcile.BillEqual, ""},
		"a dated name":    {"2,30,40,1.5,USD", map[reconcile.BillKey]reconcile.Used{{Day: key.Day, Model: "gpt-4o-2024-08-06"}: used(nil)}, reconcile.BillEqual, ""},
		"a token more":    {"2,30,41,1.5,USD", map[reconcile.BillKey]reconcile.Used{key: used(nil)}, reconcile.BillOffLine, ""},
		"dearer":          {"2,30,40,2.5,USD", map[reconcile.BillKey]reconcile.Used{key: used(nil)}, reconcile.BillOffLine, "price list differs"},
		"beside us":       {"2,30,40,1.5,USD", nil, reconcile.BillOffLine, "beside the gateway"},
		"estimated":       {"2,30,50,1.5,USD", map[reconcile.BillKey]reconcile.Used{key: used(func(u *reconcile.Used) { u.Guessed, u.GuessedTokens = 1, 20 })}, reconcile.BillExplained, "without a count"},
		"beyond a guess":  {"2,30,90,1.5,USD", map[reconcile.BillKey]reconcile.Used{key: used(func(u *reconcile.Used) { u.Guessed, u.GuessedTokens = 1, 20 })}, reconcile.BillOffLine, "without a count"},
		"asked again":     {"3,45,60,1.5,USD", map[reconcile.BillKey]reconcile.Used{key: used(func(u *reconcile.Used) { u.Retries, u.RetriedTokens = 1, 35 })}, reconcile.BillExplained, "asked again 1 times"},
		"without a price": {"2,30,40,1.5,USD", map[reconcile.BillKey]reconcile.Used{key: used(func(u *reconcile.Used) { u.Costs, u.Unpriced = nil, 70 })}, reconcile.BillOffLine, "no price here"},
	} {
		bill, err := reconcile.ParseBill("costs.csv", strings.NewReader(billHeader+"2026-11-29,gpt-4o,"+tc.line+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		got := reconcile.CompareBill("openai", bill, tc.ours)
		if len(got.Lines) != 1 || got.Lines[0].Verdict != tc.verdict || !strings.Contains(strings.Join(got.Lines[0].Why, "\n"), tc.why) ||
			got.Clean != (tc.verdict != reconcile.BillOffLine) {
			t.Errorf("%s: want %s for %q, got %+v", name, tc.verdict, tc.why, got)
		}
	}
	bill, err := reconcile.ParseBill("costs.csv", strings.NewReader(billHeader+"2026-11-29,gpt-4o,2,30,40,1.5,USD\n"))
	if err != nil {
		t.Fatal(err)
	}
	more := map[reconcile.BillKey]reconcile.Used{key: used(nil), {Day: key.Day, Model: "o3"}: used(nil)}
	if got := reconcile.CompareBill("openai", bill, more); got.Clean || len(got.Lines) != 2 {
		t.Errorf("want a model off that the bill lacks, got %+v", got)
	}
}
