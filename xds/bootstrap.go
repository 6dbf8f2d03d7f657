package xds

import (
	"fmt"

	"github.com/leaky-tokens/leaky-tokens/envoy"
	"github.com/leaky-tokens/leaky-tokens/internal/mtls"
	"github.com/leaky-tokens/leaky-tokens/internal/secretfile"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
	"github.com/leaky-tokens/leaky-tokens/xds/protos"
)

// BootstrapTLS is what an Envoy on this machine shows xds in TLS mode mutual. xds writes
// the files, and anew whenever it renews the certificate.
func BootstrapTLS(stateDir string) *envoy.TLS {
	return envoy.FilesOfXDS(mtls.Dir(stateDir), mtls.ID(topology.XDS))
}

// writeBootstrapSecrets writes the files of BootstrapTLS. Envoy notices only a file that
// is moved into the place of another.
func writeBootstrapSecrets(stateDir string, issuer *mtls.Authority) error {
	to := BootstrapTLS(stateDir)
	for path, secret := range map[string]model.Secret{
		to.Identity: gatewaySecret(issuer),
		to.Roots:    {Name: model.SecretRoots, Roots: string(issuer.Roots())},
	} {
		text, err := protos.SecretFile(secret)
		if err != nil {
			return fmt.Errorf("write envoy's certificate: %w", err)
		}
		if err := secretfile.Replace(path, text); err != nil {
			return fmt.Errorf("write envoy's certificate: %w", err)
		}
	}
	return nil
}

// gatewaySecret is what Envoy shows services and xds.
func gatewaySecret(issuer *mtls.Authority) model.Secret {
	pair := issuer.Pair(topology.Gateway)
	return model.Secret{Name: model.SecretIdentity, Certificate: string(pair.Certificate), Key: string(pair.Key)}
}
