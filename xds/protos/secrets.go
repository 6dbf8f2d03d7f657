package protos

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/mtls"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
)

// Secret is what Envoy must not be told in the open.
func Secret(s model.Secret) *tlsv3.Secret {
	out := &tlsv3.Secret{Name: s.Name}
	switch {
	case s.Certificate != "":
		out.Type = &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: inline(s.Certificate),
			PrivateKey: inline(s.Key)}}
	case s.Roots != "":
		out.Type = &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(s.Roots)}}
	default:
		out.Type = &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{Secret: inline(s.Value)}}
	}
	return out
}

// SecretFile is one secret as Envoy reads it from a file, which it watches.
func SecretFile(s model.Secret) ([]byte, error) {
	return protojson.Marshal(&discoveryv3.DiscoveryResponse{Resources: []*anypb.Any{anyOf(Secret(s))}})
}

// downstream is TLS with clients. Its certificate comes by SDS, so that a new one ends no connection.
func downstream(l model.Listener) *corev3.TransportSocket {
	sds := func(name string) *tlsv3.SdsSecretConfig { return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: ads()} }
	c := &tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		TlsParams:     &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2},
		AlpnProtocols: []string{"h2", "http/1.1"}, TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{sds(model.SecretServer)}}}
	if l.Clients != config.ClientsOff {
		c.RequireClientCertificate = wrapperspb.Bool(l.Clients == config.ClientsRequired)
		c.CommonTlsContext.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig{
			ValidationContextSdsSecretConfig: sds(model.SecretClients)}
	}
	return &corev3.TransportSocket{Name: "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: anyOf(c)}}
}

// mutual is TLS among our own parts: Envoy shows its certificate and takes only that of
// the one service. Both come by SDS, so that renewing them ends no connection.
func mutual(c model.Cluster) *corev3.TransportSocket {
	sds := func(name string) *tlsv3.SdsSecretConfig { return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: ads()} }
	protocol := "http/1.1"
	if c.GRPC {
		protocol = "h2"
	}
	return &corev3.TransportSocket{Name: "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: anyOf(&tlsv3.UpstreamTlsContext{
			CommonTlsContext: &tlsv3.CommonTlsContext{
				TlsParams: &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
					TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3},
				AlpnProtocols:                  []string{protocol},
				TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{sds(model.SecretIdentity)},
				ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
					CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
						DefaultValidationContext: &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{
							onlyPart(c.Part)}},
						ValidationContextSdsSecretConfig: sds(model.SecretRoots),
					}},
			},
		})}}
}

func onlyPart(part string) *tlsv3.SubjectAltNameMatcher {
	return &tlsv3.SubjectAltNameMatcher{SanType: tlsv3.SubjectAltNameMatcher_URI,
		Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: mtls.ID(part)}}}
}
