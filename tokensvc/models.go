package tokensvc

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/errorbody"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// model is OpenAI's model object. Created is Unix seconds; the configuration does not
// date its models, and clients need a number.
type model struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

type modelList struct {
	Object string  `json:"object"`
	Data   []model `json:"data"`
}

func newModel(m config.Model) model {
	return model{ID: m.Name, Object: "model", OwnedBy: m.Provider}
}

// listModels lists what the caller may call, in the order of the configuration.
func (a *API) listModels(w http.ResponseWriter, _ *http.Request, who principal.Principal) *errorbody.Refusal {
	list := modelList{Object: "list", Data: []model{}}
	for _, m := range a.cfg.Models {
		if a.cfg.MayCall(who, m) {
			list.Data = append(list.Data, newModel(m))
		}
	}
	httpapi.WriteJSON(w, http.StatusOK, list)
	return nil
}

// findModel finds "name" or "provider/name". One that exists and is not allowed reads
// as one that does not exist.
func (a *API) findModel(w http.ResponseWriter, r *http.Request, who principal.Principal) *errorbody.Refusal {
	asked := r.PathValue("model")
	for _, m := range a.cfg.Models {
		if (asked == m.Name || asked == m.Provider+"/"+m.Name) && a.cfg.MayCall(who, m) {
			httpapi.WriteJSON(w, http.StatusOK, newModel(m))
			return nil
		}
	}
	w.Header().Set("X-Should-Retry", "false")
	return &errorbody.Refusal{Status: http.StatusNotFound,
		Message: fmt.Sprintf("The model %.100q does not exist or this key may not call it; GET /v1/models lists those that it may.", asked), Type: errorbody.TypeInvalidRequest, Code: errorbody.CodeModelNotFound, Param: "model"}
}

// sdkHandler answers an SDK, or says why not.
type sdkHandler func(w http.ResponseWriter, r *http.Request, who principal.Principal) *errorbody.Refusal

// forSDKs lets callers with the role through and speaks OpenAI's errors.
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
	if r.URL.Path == "/v1/models" || strings.HasPrefix(r.URL.Path, "/v1/models/") {
		w.Header().Set("Allow", "GET, HEAD")
		said.Status, said.Message, said.Code = http.StatusMethodNotAllowed, "Only GET is allowed here.", "method_not_allowed"
	}
	writeRefusal(w, r, said)
}

func writeRefusal(w http.ResponseWriter, r *http.Request, said errorbody.Refusal) {
	said.RequestID = r.Header.Get("X-Request-Id")
	body, contentType := errorbody.Body(attributes.FamilyOpenAI, said)
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(said.Status)
	_, _ = w.Write(body)
}
