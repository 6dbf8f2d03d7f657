package xds

import "context"

// RenewCertificates does what happens at half of the certificates' life.
func (x *XDS) RenewCertificates(ctx context.Context) error {
	if err := x.source.issuer.Renew(); err != nil {
		return err
	}
	x.renewed(ctx)
	return nil
}
