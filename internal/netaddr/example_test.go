package netaddr_test

import (
	"fmt"

	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
)

func ExampleParse() {
	for _, s := range []string{"127.0.0.1:8080", "unix:/run/leaky/xds.sock", "8080"} {
		at, err := netaddr.Parse(s)
		fmt.Println(at.Network, at.Port, at.Path, err)
	}
	// Output:
	// tcp 8080  <nil>
	// unix 0 /run/leaky/xds.sock <nil>
	//  0  address "8080": write host:port or unix:/path
}
