package config

// What the gateway asks of its clients' certificates.
const (
	ClientsOff      = "off"
	ClientsOptional = "optional" // one that is shown must be good
	ClientsRequired = "required"
)

// GatewayTLS is TLS on the public listener. The files are read again while the gateway runs, and a
// new certificate ends no connection.
type GatewayTLS struct {
	Certificate string `yaml:"certificate"`                                               // PEM file with the chain, relative to leaky.yaml; empty: plain HTTP
	Key         string `yaml:"key"`                                                       // PEM file with its key
	Clients     string `yaml:"clients" jsonschema:"enum=off,enum=optional,enum=required"` // certificates of clients: off (default), optional or required
	ClientRoots string `yaml:"client_roots"`                                              // PEM file with the roots that they are checked with
}

// On reports whether the listener speaks TLS.
func (t GatewayTLS) On() bool { return t.Certificate != "" }

func (t GatewayTLS) validate(v *validator) {
	v.oneOf("gateway.tls.clients", t.Clients, ClientsOff, ClientsOptional, ClientsRequired)
	switch {
	case (t.Certificate == "") != (t.Key == ""):
		v.fail("gateway.tls", "a certificate goes with its key: write certificate and key, or neither")
	case !t.On() && t.Clients != ClientsOff:
		v.fail("gateway.tls.clients", "without a certificate of the gateway's own nobody shows one; write certificate and key")
	case t.Clients != ClientsOff && t.ClientRoots == "":
		v.fail("gateway.tls.client_roots", "name the file with the roots that clients' certificates are checked with")
	}
}

// scheme is how clients begin the gateway's URL.
func (g Gateway) scheme() string {
	if g.TLS.On() {
		return "https://"
	}
	return "http://"
}
