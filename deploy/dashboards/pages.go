package dashboards

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// pages are all dashboards, by the name of their file.
func pages() map[string]page {
	return map[string]page{"overview": overview(), "business": business(), "gateway": gateway(), "system": system(), "limits": limits(),
		"providers": providers()}
}

// byProvider is a choice that several pages have.
func byProvider() variable {
	return variable{"provider", "gen_ai_server_request_duration_seconds_count", "gen_ai_provider_name"}
}

// queries are those of a page, as Prometheus takes them.
func (p page) queries() []string {
	var all []string
	for _, r := range p.rows {
		for _, one := range r.panels {
			for _, q := range one.queries {
				all = append(all, PlainQuery(q.expr, 30*time.Minute))
			}
		}
	}
	return all
}

// Queries are those of all dashboards with every choice at All, by dashboard.
func Queries() map[string][]string {
	all := map[string][]string{}
	for name, p := range pages() {
		all[name] = p.queries()
	}
	return all
}

// Markdown is docs/dashboards.md: what each dashboard asks, and what its panels tell.
func Markdown() string {
	var b strings.Builder
	b.WriteString(head)
	all := pages()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		p := all[name]
		fmt.Fprintf(&b, "\n## %s\n\n%s\n`deploy/dashboards/%s.json`, uid `%s`.\n\n![%s](dashboards/%s.png)\n\n| question | panel | what is read off it |\n|---|---|---|\n",
			p.title, p.about, name, p.uid, p.title, name)
		for _, r := range p.rows {
			for _, one := range r.panels {
				fmt.Fprintf(&b, "| %s | %s | %s |\n", r.question, one.title, one.about)
			}
		}
	}
	return b.String()
}

const head = `# Dashboards

For Grafana, as files that it provisions (folder "Leaky Tokens", a Prometheus data source as the
default one). This page and the files are made from ` + "`deploy/dashboards`" + `:
` + "`go test ./deploy/dashboards -update`" + `. A test runs every query on the Prometheus of a stack
that serves calls.

To look at them beside ` + "`make up`" + `, which runs Prometheus but no Grafana, import the files in a
Grafana of your own and point its data source at what ` + "`leaky open prometheus`" + ` names.

The pictures are of the same files with the numbers of a running stack, drawn without Grafana:
` + "`make up demo dashboards`" + ` makes them anew, and fails where a panel shows nothing. It needs chromium.
`
