package protos

import (
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	exprv1 "google.golang.org/genproto/googleapis/api/expr/v1alpha1"

	"github.com/leaky-tokens/leaky-tokens/xds/model"
)

const (
	headersKiB = 64
	// The codecs take more than is allowed: that of HTTP/2 resets the stream, or the connection,
	// which has too much, where a filter can answer. Each header costs Envoy some hundred bytes
	// whatever it holds, hence a bound on their number that no configuration lifts.
	codecHeadersKiB = 4 * headersKiB
	codecHeaders    = 2048
)

// ownHeaders is how many headers Envoy adds to a client's, and HTTP/2 has for the request line.
const ownHeaders = 9

// headerBounds refuses more headers than are allowed. RBAC is the one filter that refuses by an
// expression; its 403 becomes a 431 in refusals.
func headerBounds(l model.Listener) *rbacv3.RBAC {
	tooMany := either(
		above(ofRequest("total_size"), headersKiB<<10),
		above(function("size", ofRequest("headers")), int64(l.MaxHeaders)+ownHeaders))
	policy := &rbacconfigv3.Policy{Condition: tooMany,
		Permissions: []*rbacconfigv3.Permission{{Rule: &rbacconfigv3.Permission_Any{Any: true}}},
		Principals:  []*rbacconfigv3.Principal{{Identifier: &rbacconfigv3.Principal_Any{Any: true}}}}
	return &rbacv3.RBAC{Rules: &rbacconfigv3.RBAC{Action: rbacconfigv3.RBAC_DENY,
		Policies: map[string]*rbacconfigv3.Policy{filterHeaders: policy}}}
}

// The rest writes CEL as its syntax tree, which is what RBAC takes.

func either(a, b *exprv1.Expr) *exprv1.Expr { return function("_||_", a, b) }

func above(a *exprv1.Expr, bound int64) *exprv1.Expr {
	return function("_>_", a, &exprv1.Expr{ExprKind: &exprv1.Expr_ConstExpr{ConstExpr: &exprv1.Constant{
		ConstantKind: &exprv1.Constant_Int64Value{Int64Value: bound}}}})
}

// ofRequest is an attribute of the request
// (envoyproxy.io, "Attributes", request.total_size and request.headers).
func ofRequest(field string) *exprv1.Expr {
	request := &exprv1.Expr{ExprKind: &exprv1.Expr_IdentExpr{IdentExpr: &exprv1.Expr_Ident{Name: "request"}}}
	return &exprv1.Expr{ExprKind: &exprv1.Expr_SelectExpr{SelectExpr: &exprv1.Expr_Select{Operand: request, Field: field}}}
}

func function(name string, args ...*exprv1.Expr) *exprv1.Expr {
	return &exprv1.Expr{ExprKind: &exprv1.Expr_CallExpr{CallExpr: &exprv1.Expr_Call{Function: name, Args: args}}}
}
