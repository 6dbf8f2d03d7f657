// Package metricsdoc is beside the request path: it reads from the code which metrics there are,
// so that docs/metrics.md, alerts and dashboards can be held against them.
package metricsdoc

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Metric is one that the code makes.
type Metric struct {
	Name   string
	Kind   string // counter, gauge or histogram
	Labels []string
	Help   string
	Room   string // folder of the package, from the module's root
}

// Series are the names under which Prometheus keeps the metric.
func (m Metric) Series() []string {
	if m.Kind == "histogram" {
		return []string{m.Name + "_bucket", m.Name + "_sum", m.Name + "_count"}
	}
	return []string{m.Name}
}

// skipped are the folders whose metrics are not the product's: measurements, tests, and the limiter
// in envoyproxy/ratelimit's place, whose names are those of upstream.
func skipped() []string { return []string{"bench", "internal/testing", "ratelimit/dropin"} }

// Read finds every metric of the product's code below root, by name. What it cannot read is an
// error: a metric that nobody can find is not documented.
func Read(root string) ([]Metric, error) {
	var all []Metric
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() && (slices.Contains(skipped(), filepath.ToSlash(rel)) || strings.HasPrefix(d.Name(), ".") && rel != ".") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		found, err := readFile(path)
		for i := range found {
			found[i].Room = filepath.ToSlash(filepath.Dir(rel))
		}
		all = append(all, found...)
		return err
	})
	slices.SortFunc(all, func(a, b Metric) int { return cmp.Compare(a.Name, b.Name) })
	for i := range all[:max(0, len(all)-1)] {
		if all[i].Name == all[i+1].Name && err == nil {
			err = fmt.Errorf("%s is made in %s and in %s", all[i].Name, all[i].Room, all[i+1].Room)
		}
	}
	return all, err
}

// A file makes metrics by prometheus.NewX itself, or by functions of its own that pass a name on.
type file struct {
	set    *token.FileSet
	makers map[string]*maker // by the function's name
	found  []Metric
	errs   []error
}

type maker struct {
	params []string
	call   *ast.CallExpr // prometheus.NewX within it
}

func readFile(path string) ([]Metric, error) {
	f := &file{set: token.NewFileSet(), makers: map[string]*maker{}}
	parsed, err := parser.ParseFile(f.set, path, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	within := map[*ast.CallExpr]bool{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt: // counter := func(name, help string) ...
			for i, right := range n.Rhs {
				if made, ok := right.(*ast.FuncLit); ok && i < len(n.Lhs) {
					f.maker(n.Lhs[i], made.Type, made.Body, within)
				}
			}
		case *ast.FuncDecl:
			f.maker(n.Name, n.Type, n.Body, within)
		}
		return true
	})
	ast.Inspect(parsed, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && !within[call] {
			f.call(call)
		}
		return true
	})
	if len(f.errs) > 0 {
		return nil, f.errs[0]
	}
	return f.found, nil
}

// maker remembers a function that makes a metric of the name that it is given.
func (f *file) maker(name ast.Expr, of *ast.FuncType, body *ast.BlockStmt, within map[*ast.CallExpr]bool) {
	ident, ok := name.(*ast.Ident)
	if !ok || body == nil {
		return
	}
	m := &maker{}
	for _, field := range of.Params.List {
		for _, p := range field.Names {
			m.params = append(m.params, p.Name)
		}
	}
	ast.Inspect(body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if kind, _ := constructor(call); kind != "" {
			if param, ok := nameOf(call).(*ast.Ident); ok && slices.Contains(m.params, param.Name) {
				m.call, within[call] = call, true
			}
		}
		return true
	})
	if m.call != nil {
		f.makers[ident.Name] = m
	}
}

// call takes over the metric that a call makes, if it makes one.
func (f *file) call(call *ast.CallExpr) {
	if kind, _ := constructor(call); kind != "" {
		f.add(call, kind, nil)
		return
	}
	if ident, ok := call.Fun.(*ast.Ident); ok && f.makers[ident.Name] != nil {
		m := f.makers[ident.Name]
		given := map[string]ast.Expr{}
		for i, arg := range call.Args[:min(len(call.Args), len(m.params))] {
			given[m.params[i]] = arg
		}
		kind, _ := constructor(m.call)
		f.add(m.call, kind, given)
	}
}

func (f *file) add(call *ast.CallExpr, kind string, given map[string]ast.Expr) {
	name, ok1 := text(nameOf(call), given)
	help, ok2 := text(helpOf(call), given)
	labels, ok3 := labelsOf(call, given)
	if !ok1 || !ok2 || !ok3 {
		f.errs = append(f.errs, fmt.Errorf("%s: name, help or labels of a metric are not written out", f.set.Position(call.Pos())))
		return
	}
	f.found = append(f.found, Metric{Name: name, Kind: kind, Labels: labels, Help: help})
}

// constructor is what prometheus.NewX makes; empty: the call is something else.
func constructor(call *ast.CallExpr) (kind string, vec bool) {
	of, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return "", false
	}
	if from, ok := of.X.(*ast.Ident); !ok || from.Name != "prometheus" {
		return "", false
	}
	if of.Sel.Name == "NewDesc" { // of gauges, in this product
		return "gauge", true
	}
	name, ok := strings.CutPrefix(of.Sel.Name, "New")
	if !ok {
		return "", false
	}
	name, vec = strings.CutSuffix(strings.TrimSuffix(name, "Func"), "Vec")
	if name = strings.ToLower(name); name == "counter" || name == "gauge" || name == "histogram" {
		return name, vec
	}
	return "", false
}

func nameOf(call *ast.CallExpr) ast.Expr { return option(call, "Name", 0) }
func helpOf(call *ast.CallExpr) ast.Expr { return option(call, "Help", 1) }

// option is a field of the options, or NewDesc's argument at a place.
func option(call *ast.CallExpr, field string, place int) ast.Expr {
	if len(call.Args) == 0 {
		return nil
	}
	options, ok := call.Args[0].(*ast.CompositeLit)
	if !ok {
		return call.Args[min(place, len(call.Args)-1)]
	}
	for _, e := range options.Elts {
		if pair, ok := e.(*ast.KeyValueExpr); ok {
			if key, ok := pair.Key.(*ast.Ident); ok && key.Name == field {
				return pair.Value
			}
		}
	}
	return nil
}

func labelsOf(call *ast.CallExpr, given map[string]ast.Expr) ([]string, bool) {
	_, vec := constructor(call)
	if !vec {
		return constLabels(call), true
	}
	at := 1
	if _, ok := call.Args[0].(*ast.CompositeLit); !ok {
		at = 2 // NewDesc
	}
	if at >= len(call.Args) {
		return nil, false
	}
	list, ok := call.Args[at].(*ast.CompositeLit)
	if !ok {
		return nil, false
	}
	var labels []string
	for _, e := range list.Elts {
		label, ok := text(e, given)
		if !ok {
			return nil, false
		}
		labels = append(labels, label)
	}
	return labels, true
}

// constLabels are those of a metric of which there is one for each value.
func constLabels(call *ast.CallExpr) (labels []string) {
	written, ok := option(call, "ConstLabels", len(call.Args)).(*ast.CompositeLit)
	if !ok {
		return nil
	}
	for _, e := range written.Elts {
		if pair, ok := e.(*ast.KeyValueExpr); ok {
			if label, ok := text(pair.Key, nil); ok {
				labels = append(labels, label)
			}
		}
	}
	return labels
}

// text is a string that is written out, perhaps in pieces, or a parameter that was given one.
func text(e ast.Expr, given map[string]ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		value, err := strconv.Unquote(e.Value)
		return value, err == nil
	case *ast.BinaryExpr:
		left, ok1 := text(e.X, given)
		right, ok2 := text(e.Y, given)
		return left + right, ok1 && ok2 && e.Op == token.ADD
	case *ast.Ident:
		if value, ok := given[e.Name]; ok {
			return text(value, nil)
		}
	}
	return "", false
}
