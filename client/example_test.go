package client_test

import (
	"context"
	"fmt"
	"net/http"

	"github.com/leaky-tokens/leaky-tokens/client"
)

// A program calls the control API with a key or, as here, with a login that goes on by itself. HTTP is
// left out where a gateway really listens.
func Example() {
	answers := gateway(func(r *http.Request, _ string) (int, http.Header, string) {
		if r.URL.Path == "/api/v1/auth/login" {
			return http.StatusOK, nil, `{"token":"t","expiresIn":900}`
		}
		return http.StatusOK, nil, `{"object":"list","data":[{"id":"gpt-4o","object":"model","owned_by":"openai"}]}`
	})
	ada, err := client.New(client.Config{Gateway: "http://localhost:8080", Credential: client.Login("ada", "one of your own"),
		HTTP: &http.Client{Transport: answers}})
	if err != nil {
		fmt.Println(err)
		return
	}
	models, err := ada.ListModelsWithResponse(context.Background())
	if err != nil { // a refusal is a *client.Error
		fmt.Println(err)
		return
	}
	for _, m := range models.JSON200.Data {
		fmt.Println(m.ID, "of", m.OwnedBy)
	}
	// Output: gpt-4o of openai
}
