package tokensvc

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/errorbody"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// served gives the models that a caller may call by a protocol, in the order of the configuration:
// an SDK is shown what its own calls reach.
func (a *API) served(who principal.Principal, protocol config.Protocol) []config.Model {
	var all []config.Model
	protocols := a.cfg.Protocols()
	for _, m := range a.cfg.Models() {
		if cmp.Or(protocols[m.Provider], config.ProtocolOpenAI) == protocol && a.cfg.MayCall(who, m) {
			all = append(all, m)
		}
	}
	return all
}

// listed are the models without those that stand for many.
func listed(models []config.Model) []config.Model {
	return slices.DeleteFunc(models, func(m config.Model) bool {
		_, wild := m.Wildcard()
		return wild
	})
}

// listModels lists what the caller may call, in a protocol's shape.
func (a *API) listModels(shape shape) sdkHandler {
	return func(w http.ResponseWriter, r *http.Request, who principal.Principal) *errorbody.Refusal {
		list, said := shape.list(listed(a.served(who, shape.protocol)), r.URL.Query())
		if said == nil {
			httpapi.WriteJSON(w, http.StatusOK, list)
		}
		return said
	}
}

// findModel finds "name" or "provider/name". One that exists and is not allowed reads
// as one that does not exist.
func (a *API) findModel(shape shape) sdkHandler {
	return func(w http.ResponseWriter, r *http.Request, who principal.Principal) *errorbody.Refusal {
		asked := r.PathValue("model")
		for _, m := range a.served(who, shape.protocol) {
			if _, stands := m.Stands(asked); stands {
				m.Name = asked
			}
			if asked == m.Name || asked == m.Provider+"/"+m.Name {
				httpapi.WriteJSON(w, http.StatusOK, shape.one(m))
				return nil
			}
		}
		w.Header().Set("X-Should-Retry", "false")
		return &errorbody.Refusal{Status: http.StatusNotFound,
			Message: fmt.Sprintf("The model %.100q does not exist or this key may not call it; GET %s lists those that it may.", asked, shape.path),
			Type:    errorbody.TypeInvalidRequest, Code: errorbody.CodeModelNotFound, Param: "model"}
	}
}

// sdkHandler answers an SDK, or says why not.
type sdkHandler func(w http.ResponseWriter, r *http.Request, who principal.Principal) *errorbody.Refusal

// forSDKs lets callers with the role through and speaks the errors of the path's SDK.
func (a *API) forSDKs(h sdkHandler) http.Handler {
	refuse := func(w http.ResponseWriter, r *http.Request) {
		e := a.unknownCaller()
		said := errorbody.Refusal{Status: e.Status, Message: e.Message, Type: errorbody.TypeInvalidRequest, Code: errorbody.CodeInvalidKey}
		if e.Status == http.StatusServiceUnavailable {
			said.Type, said.Code = errorbody.TypeServer, errorbody.CodeUnavailable
			w.Header().Set("Retry-After", "1")
		} else {
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
		writeRefusal(w, r, said)
	}
	return a.cfg.Verifier.Middleware(refuse, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, _ := principal.From(r.Context())
		if !isUser(who) {
			writeRefusal(w, r, errorbody.Refusal{Status: http.StatusForbidden, Message: errNoRole().Message, Type: errorbody.TypeInvalidRequest,
				Code: "insufficient_permissions"})
			return
		}
		if said := h(w, r, who); said != nil {
			writeRefusal(w, r, *said)
		}
	}))
}

// noSuchRoute is what an SDK hears on /v1 where nothing is routed: 405 for a known path.
func noSuchRoute(w http.ResponseWriter, r *http.Request) {
	said := errorbody.Refusal{Status: http.StatusNotFound, Message: "No such route.", Type: errorbody.TypeInvalidRequest, Code: "unknown_url"}
	if _, below, is := strings.Cut(r.URL.Path, "/models"); is && (below == "" || below[0] == '/') {
		w.Header().Set("Allow", "GET, HEAD")
		said.Status, said.Message, said.Code = http.StatusMethodNotAllowed, "Only GET is allowed here.", "method_not_allowed"
	}
	writeRefusal(w, r, said)
}

func writeRefusal(w http.ResponseWriter, r *http.Request, said errorbody.Refusal) {
	said.RequestID = r.Header.Get("X-Request-Id")
	body, contentType := errorbody.Body(familyOf(r.URL.Path), said)
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(said.Status)
	_, _ = w.Write(body)
}

// familyOf is the shape of errors on a path.
func familyOf(path string) string {
	switch {
	case strings.HasPrefix(path, "/anthropic/"):
		return attributes.FamilyAnthropic
	case strings.HasPrefix(path, "/v1beta/"):
		return attributes.FamilyGemini
	}
	return attributes.FamilyOpenAI
}
